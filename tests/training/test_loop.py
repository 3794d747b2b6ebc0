"""The loop: it learns, it resumes exactly, and stages hand over the function they have learnt."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sparse_attn.attention import create_attention
from sparse_attn.backbones import EDSR, models, register_model
from sparse_attn.errors import ConfigError, DataError, TrainingError, UnknownNameError, WeightsError
from sparse_attn.factory import create_model
from sparse_attn.training import Recipe, Stage, Trainer
from sparse_attn.training.start import initialise
from sparse_attn.weights import read_weights

TINY = "tiny_training_x2"
if TINY not in models:
    register_model(
        TINY,
        EDSR,
        scale=2,
        n_resblocks=2,
        n_feats=8,
        res_scale=1.0,
        attention="nlsa",
        attention_at=(0, 2),
        attention_kwargs={"bucket_size": 16, "rounds": 2},
    )


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for folder, count in (("train", 3), ("val", 2)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(
                (36, 36), Image.Resampling.BICUBIC
            )
            smooth.save(tmp_path / folder / f"{i}.png")
    return Recipe(
        model=TINY,
        train=str(tmp_path / "train"),
        val=str(tmp_path / "val"),
        ema=0.9,
        precision="float32",
        val_every=6,
        val_images=1,
        stages=(
            Stage(name="trunk", steps=8, lr=1e-3, batch=2, patch=11, attention=False),
            Stage(name="full", steps=10, lr=1e-3, batch=2, patch=11),
        ),
    )


class _Crash(Exception):
    pass


def _train(recipe: Recipe, out: Path, *, crash_at: int | None = None) -> dict[str, Tensor]:
    trainer = Trainer(recipe, out, device=torch.device("cpu"))
    step = trainer.train_step

    def crashing() -> float:
        if trainer.total_step == crash_at:
            raise _Crash
        return step()

    trainer.train_step = crashing  # type: ignore[method-assign]
    return trainer.run()


def test_ctrl_c_within_a_step_lets_it_end(recipe: Recipe, tmp_path: Path) -> None:
    whole = _train(recipe, tmp_path / "whole")
    trainer = Trainer(recipe, tmp_path / "parts", device=torch.device("cpu"))
    validate = trainer.validate

    def pressing(images: int | None) -> float:
        signal.raise_signal(signal.SIGINT)
        return validate(images)

    trainer.validate = pressing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.step == 6
    resumed = _train(recipe, tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_nothing(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, save_minutes=1e-9), tmp_path / "run")
    step = trainer.train_step

    def poisoning() -> float:
        if trainer.step == 5:
            torch.nn.init.constant_(trainer.model.get_parameter("head.weight"), torch.nan)
        return step()

    trainer.train_step = poisoning  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"step 5 of stage 'trunk' is not finite, got nan.*last\.pt"):
        trainer.run()
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert saved["step"] == 5
    assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())


def test_where_the_data_lies_and_how_often_one_looks_may_change(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(_Crash):
        _train(replace(recipe, save_minutes=1e-9), tmp_path / "run", crash_at=4)
    (tmp_path / "train").rename(tmp_path / "moved")
    moved = replace(recipe, train=str(tmp_path / "moved"), val_every=3, val_images=2, save_minutes=1.0)
    trainer = Trainer(moved, tmp_path / "run")
    trainer.run()
    assert trainer.total_step == 18


def test_white_may_be_255(recipe: Recipe, tmp_path: Path) -> None:
    stage = Stage(name="only", steps=1, lr=1e-9, batch=2, patch=11, attention=False)
    first = {}
    for white in (1.0, 255.0):
        trainer = Trainer(replace(recipe, stages=(stage,), model_config={"rgb_range": white}), tmp_path / f"{white}")
        trainer._begin_stage(None)
        first[white] = trainer.train_step()
    assert 0 < first[255.0] < 3 * first[1.0]


def test_a_last_stage_without_attention_gives_a_model_without(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(replace(recipe, stages=recipe.stages[:1]), tmp_path / "run")
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(tmp_path / "run"))
    assert len(create_model(TINY, pretrained=True).body.attention) == 0


def test_several_processes_are_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, got WORLD_SIZE=2"):
        Trainer(recipe, tmp_path / "run")


@pytest.mark.parametrize("crash_at", [3, 8, 13])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(recipe: Recipe, tmp_path: Path, crash_at: int) -> None:
    whole = _train(recipe, tmp_path / "whole")
    with pytest.raises(_Crash):
        _train(replace(recipe, save_minutes=1e-9), tmp_path / "parts", crash_at=crash_at)
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["total_step"] == crash_at
    torch.manual_seed(99)
    resumed = _train(recipe, tmp_path / "parts")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_weights_and_log_are_written(recipe: Recipe, tmp_path: Path) -> None:
    weights = _train(recipe, tmp_path / "run")
    written = read_weights(tmp_path / "run" / TINY)
    assert all(torch.equal(weights[name], written[name]) for name in weights)
    config = json.loads((tmp_path / "run" / TINY / "config.json").read_text())
    assert (config["model"], config["config"]["scale"]) == (TINY, 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    validations = [(line["stage"], line["step"], line["val_images"]) for line in lines if "val_psnr" in line]
    assert validations == [("trunk", 6, 1), ("trunk", 8, 2), ("full", 6, 1), ("full", 10, 2)]
    start = next(line["init"] for line in lines if "init" in line)
    assert all(name.startswith("body.attention.") for name in start["new"])
    assert start["dropped"] == start["shape"] == []


def test_it_learns(recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, stages=(Stage(name="only", steps=60, lr=3e-3, batch=4, patch=11),))
    trainer = Trainer(longer, tmp_path / "run")
    trainer.run()
    assert trainer.validate(None) > 5 + Trainer(longer, tmp_path / "run").validation.measure(
        trainer.entry.build(), device=torch.device("cpu"), bf16=False
    )


def test_another_recipe_is_not_resumed(recipe: Recipe, tmp_path: Path) -> None:
    _train(recipe, tmp_path / "run")
    with pytest.raises(DataError, match="of another recipe, got changed: seed"):
        _train(replace(recipe, seed=1), tmp_path / "run")


def test_a_damaged_checkpoint_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="cannot read checkpoint"):
        _train(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("train", "nowhere", DataError, "no training folder"),
        ("val", "nowhere", DataError, "no training folder"),
        ("model", "nlsn_lite", UnknownNameError, "unknown model 'nlsn_lite'"),
        ("init", "nowhere", WeightsError, "nowhere"),
    ],
)
def test_bad_recipes_stop_before_training(
    recipe: Recipe, tmp_path: Path, field: str, value: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _train(replace(recipe, **{field: value}), tmp_path / "run")


def test_new_attention_starts_as_the_identity() -> None:
    plain = models.get(TINY).build(attention=None)
    full = models.get(TINY).build()
    report = initialise(full, plain.state_dict())
    x = torch.rand(1, 3, 11, 13)
    torch.testing.assert_close(full(x), plain(x), atol=0, rtol=0)
    assert len(report["new"]) == 8


def test_tensors_of_another_shape_are_left_and_named() -> None:
    source, target = nn.Sequential(nn.Conv2d(3, 5, 1)), nn.Sequential(nn.Conv2d(3, 7, 1), create_attention("nla", 7))
    before = target[0].weight.detach().clone()
    report = initialise(target, {**source.state_dict(), "extra": torch.zeros(1)})
    assert report["shape"] == ["0.bias", "0.weight"]
    assert report["dropped"] == ["extra"]
    assert torch.equal(target[0].weight, before)
