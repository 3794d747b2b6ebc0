"""Runs in processes of their own: killed at any moment, and several training together."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparse_attn.training.journal import read_log
from tests.training.support import make_pictures

RECIPE = """
model: edsr_baseline_x2
model_config: {{n_resblocks: 2, n_feats: 8, attention: {attention}, attention_at: [1],
               attention_kwargs: {{bucket_size: 16, rounds: 2}}}}
train: {folder}/train
val: {folder}/val
ema: 0.9
precision: float32
val_every: 7
val_images: 1
save_minutes: 1.0e-9
clip_grad: 1.0
stages:
  - {{name: trunk, steps: {trunk}, lr: 1.0e-3, batch: {batch}, patch: 11, attention: false}}
  - {{name: full, steps: {full}, lr: 1.0e-3, batch: {batch}, patch: 11, schedule: halving, halve_every: 9}}
"""


def _command(recipe: Path, out: Path) -> list[str]:
    return ["-m", "sparse_attn.cli", "train", str(recipe), "--out", str(out), "--device", "cpu", "--threads", "1"]


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SPARSE_ATTN_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _write(folder: Path, name: str, **fields: object) -> Path:
    path = folder / name
    path.write_text(RECIPE.format(folder=folder, **{"trunk": 6, "full": 6, "batch": 2, "attention": "nlsa", **fields}))
    return path


def _run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], env=_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _weights(out: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(out / "full.pt", weights_only=True)
    return weights


def test_killed_at_a_random_step_and_resumed(tmp_path: Path) -> None:
    make_pictures(tmp_path)
    recipe = _write(tmp_path, "recipe.yaml", trunk=25, full=25)
    _run(_command(recipe, tmp_path / "whole"), tmp_path)
    seed = random.randrange(2**32)
    steps, kills = sorted(random.Random(seed).sample(range(1, 48), 2)), 0
    out = tmp_path / "parts"
    while True:
        process = subprocess.Popen(
            [sys.executable, *_command(recipe, out)], env=_environment(tmp_path), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and (kills >= len(steps) or _newest(out) < steps[kills]):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert (process.returncode, kills) == (0, 2), f"seed {seed}"
    whole, parts = _weights(tmp_path / "whole"), _weights(out)
    assert all(torch.equal(whole[name], parts[name]) for name in whole), f"seed {seed}"


def _newest(out: Path) -> int:
    return max((int(path.stem.partition("-")[2]) for path in (out / "checkpoints").glob("step-*.pt")), default=0)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("attention", ["nlsa", pytest.param("null", marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one_with_the_doubled_batch(tmp_path: Path, attention: str) -> None:
    make_pictures(tmp_path)
    one = _write(tmp_path, "one.yaml", batch=4, attention=attention)
    two = _write(tmp_path, "two.yaml", batch=2, attention=attention)
    _run(_command(one, tmp_path / "one"), tmp_path)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_free_port())]
    _run([*launch, *_command(two, tmp_path / "two")], tmp_path)
    first, second = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=0)
    records = [
        json.loads((tmp_path / run / "edsr_baseline_x2" / "training.json").read_text()) for run in ("one", "two")
    ]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["samples"] == records[1]["samples"] == 48
    values = [[line["val_psnr"] for line in read_log(tmp_path / run) if "val_psnr" in line] for run in ("one", "two")]
    assert values[0] == pytest.approx(values[1], abs=1e-3)
