"""`sparse-attn throughput` on a toy: the table, the records, and the words for `sparse-attn train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from torch import nn

from sparse_attn.training import throughput
from tests.cli.conftest import Command


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    config = {"n_resblocks": 1, "n_feats": 8, "attention_at": [0]}
    stages = [{"name": "a", "steps": 9, "lr": 1e-3, "batch": 2, "patch": 7}]
    content = {"model": "nlsn_light_x2", "model_config": config, "train": "t", "val": "v", "precision": "float32"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, "stages": stages}))
    return path


def test_the_command(command: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self, *, mode: None)
    words = ["throughput", recipe, "--compile", "false,reduce-overhead", "--each", "0.01", "--seconds", "1000"]
    outcome = command(*words, "--device", "cpu", "--batches", "2,1", "--json", "speed.json", "--settings", "words")
    assert (outcome.code, outcome.errors) == (0, [])
    lines = outcome.out.splitlines()
    assert lines[0].split()[:5] == ["batch", "patch", "compile", "precision", "steps/s"]
    assert [line.split()[:4] for line in lines[1:5]] == [
        [batch, "7", mode, "float32"] for mode in ("false", "reduce-overhead") for batch in ("2", "1")
    ]
    assert lines[-1].startswith("most samples a second: batch ")
    content = json.loads((tmp_path / "speed.json").read_text())
    assert (content["model"], content["device"], len(content["cases"])) == ("nlsn_light_x2", "cpu", 4)
    cases = [c for c in content["cases"] if c["batch"] == 2]
    fastest = max(cases, key=lambda c: c["samples_per_second"])["compile"]
    word = "false" if fastest is False else fastest
    assert (tmp_path / "words").read_text() == f"--set\ncompile={word}\n"


def test_the_command_by_default_takes_the_recipes_batch_its_half_and_double(
    command: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_measure", lambda model, case, device, seconds: case)
    outcome = command("throughput", recipe, "--compile", "false")
    assert outcome.code == 1 and outcome.errors == ["error: no case could be timed"]
    assert [line.split()[0] for line in outcome.out.splitlines()[1:]] == ["2", "1", "4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batches", "2,x"], "error: bad batches, expected positive whole numbers, as 8,16, got '2,x'"),
        (["--patches", "0"], "error: bad patches, expected positive whole numbers, as 8,16, got '0'"),
        (["--compile", "fast"], "error: bad compile, expected default or "),
        (["--json", "no/where.json"], "error: cannot write no/where.json: no such folder"),
    ],
)
def test_bad_options_are_one_line(command: Command, recipe: Path, words: list[str], said: str) -> None:
    outcome = command("throughput", recipe, *words)
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith(said)
