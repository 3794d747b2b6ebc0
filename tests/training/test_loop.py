"""The loop: it learns, it resumes exactly, and stages hand over the function they have learnt."""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
import time
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sparse_attn.attention import create_attention
from sparse_attn.backbones import EDSR, models, register_model
from sparse_attn.errors import ConfigError, DataError, TrainingError, UnknownNameError, WeightsError
from sparse_attn.factory import create_model
from sparse_attn.training import Recipe, Stage, Trainer
from sparse_attn.training.journal import read_log as _log
from sparse_attn.training.learner import Outcome
from sparse_attn.training.start import initialise
from sparse_attn.weights import read_weights, write_zoo_folder
from tests.training.support import make_pictures

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
    make_pictures(tmp_path)
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

    def crashing() -> Outcome:
        if trainer.total_step == crash_at:
            raise _Crash
        return step()

    trainer.train_step = crashing  # type: ignore[method-assign]
    return trainer.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_step_lets_it_end(recipe: Recipe, tmp_path: Path, number: signal.Signals) -> None:
    whole = _train(recipe, tmp_path / "whole")
    trainer = Trainer(recipe, tmp_path / "parts", device=torch.device("cpu"))
    validate = trainer.validate

    def pressing(images: int | None) -> float:
        signal.raise_signal(number)
        return validate(images)

    trainer.validate = pressing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert trainer.step == 6
    resumed = _train(recipe, tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _poisoned(trainer: Trainer, steps: Container[int]) -> None:
    """Makes the loss of some steps NaN."""
    step = trainer.train_step

    def poisoning() -> Outcome:
        assert trainer.learner is not None
        head = trainer.learner.model.get_parameter("head.weight")
        before = head.detach().clone()
        if trainer.step in steps:
            head.data.fill_(torch.nan)
        outcome = step()
        if trainer.step in steps:
            head.data.copy_(before)
        return outcome

    trainer.train_step = poisoning  # type: ignore[method-assign]


def test_a_step_that_is_not_finite_is_left_out(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, tmp_path / "run")
    _poisoned(trainer, {2, 5})
    weights = trainer.run()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    skips = [(line["stage"], line["step"], line["skipped"]) for line in _log(tmp_path / "run") if "skipped" in line]
    assert skips == [("trunk", 3, 1), ("trunk", 6, 2), ("full", 3, 3), ("full", 6, 4)]
    assert json.loads((tmp_path / "run" / TINY / "training.json").read_text())["skipped"] == 4


def test_a_step_that_is_left_out_changes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, tmp_path / "run")
    trainer._begin_stage(None)
    learner = trainer.learner
    assert learner is not None
    learner.step(0, 0.0)
    before = copy.deepcopy((learner.model.state_dict(), learner.weights(), learner.optimizer.state_dict()))
    learner.rgb_range = math.nan
    assert not learner.step(1, 1.0).finite
    after = (learner.model.state_dict(), learner.weights(), learner.optimizer.state_dict())
    torch.testing.assert_close(after[:2], before[:2], atol=0, rtol=0)
    torch.testing.assert_close(after[2]["state"], before[2]["state"], atol=0, rtol=0)


def test_too_many_of_them_stop_the_run_and_spoil_nothing(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, save_minutes=1e-9, max_skipped=3), tmp_path / "run")
    _poisoned(trainer, range(5, 99))
    with pytest.raises(TrainingError, match=r"3 steps in a row, up to step 8 of stage 'trunk', got loss nan.*step-0+7"):
        trainer.run()
    saved = torch.load(sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1], weights_only=True)
    assert (saved["step"], saved["averaged"]) == (7, 5)
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
        first[white] = trainer.train_step().loss
    assert 0 < first[255.0] < 3 * first[1.0]


def test_a_last_stage_without_attention_gives_a_model_without(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(replace(recipe, stages=recipe.stages[:1]), tmp_path / "run")
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(tmp_path / "run"))
    assert len(create_model(TINY, pretrained=True).body.attention) == 0


@pytest.mark.parametrize("crash_at", [3, 8, 13])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(recipe: Recipe, tmp_path: Path, crash_at: int) -> None:
    whole = _train(recipe, tmp_path / "whole")
    with pytest.raises(_Crash):
        _train(replace(recipe, save_minutes=1e-9), tmp_path / "parts", crash_at=crash_at)
    names = [path.name for path in sorted((tmp_path / "parts" / "checkpoints").iterdir())]
    newest = [f"step-{step:09d}.pt" for step in (crash_at - 1, crash_at) if step > 0]
    assert [name for name in names if name != "best.pt"] == newest
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
    lines = _log(tmp_path / "run")
    validations = [(line["stage"], line["step"], line["val_images"]) for line in lines if "val_psnr" in line]
    assert validations == [("trunk", 6, 1), ("trunk", 8, 2), ("full", 6, 1), ("full", 10, 2)]
    start = next(line["init"] for line in lines if "init" in line)
    assert all(name.startswith("body.attention.") for name in start["new"])
    assert start["dropped"] == start["shape"] == start["adapted"] == []
    assert len(start["taken"]) == len(weights) - len(start["new"])
    assert [line["step"] for line in lines if "loss" in line] == [8, 10]
    assert all(0 <= line["data_wait"] <= 1 and line["grad_norm"] > 0 for line in lines if "loss" in line)


def test_the_last_validation_may_be_short(recipe: Recipe, tmp_path: Path) -> None:
    _train(replace(recipe, final_val_images=1), tmp_path / "run")
    assert {line["val_images"] for line in _log(tmp_path / "run") if "val_psnr" in line} == {1}


def test_the_health_of_attention_is_logged(recipe: Recipe, tmp_path: Path) -> None:
    plain = _train(recipe, tmp_path / "plain")
    watched = _train(replace(recipe, health=True), tmp_path / "watched")
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    lines = [line for line in _log(tmp_path / "watched") if "body.attention.0/mass_kept" in line]
    assert [(line["stage"], line["step"]) for line in lines] == [("full", 6), ("full", 10)]
    assert all(0 < line["body.attention.0/mass_kept"] <= 1 for line in lines)


def test_it_learns(recipe: Recipe, tmp_path: Path) -> None:
    longer = replace(recipe, stages=(Stage(name="only", steps=60, lr=3e-3, batch=4, patch=11),))
    trainer = Trainer(longer, tmp_path / "run")
    trainer.run()
    untrained = trainer.validation.measure(trainer.entry.build(), device=torch.device("cpu"), bf16=False)
    assert trainer.validate(None) > 5 + sum(untrained) / len(untrained)


def test_weights_larger_than_a_shard(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(write_zoo_folder.__kwdefaults__, "shard_bytes", 500)
    weights = _train(replace(recipe, stages=recipe.stages[:1]), tmp_path / "run")
    assert max(tensor.nbytes for tensor in weights.values()) > 500
    assert read_weights(tmp_path / "run" / TINY).keys() == weights.keys()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"patch": 99}, DataError, "no training image is large enough, expected an LR side of at least 99"),
        ({"optimizer": "muon", "optimizer_args": {"wings": 2}}, ConfigError, "optimizer 'muon' cannot be made"),
    ],
)
def test_what_is_wrong_with_a_later_stage_is_said_at_once(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    stages = (recipe.stages[0], replace(recipe.stages[1], **change))
    with pytest.raises(error, match=message):
        Trainer(replace(recipe, stages=stages), tmp_path / "run")


def test_a_validation_image_that_is_too_small(recipe: Recipe, tmp_path: Path) -> None:
    Image.new("RGB", (36, 4)).save(tmp_path / "val" / "z.png")
    with pytest.raises(
        DataError, match=r"image z\.png in .*val is too small, expected sides of more than 4.*, got 4x36"
    ):
        Trainer(recipe, tmp_path / "run")


def test_the_best_checkpoint_is_weights_to_start_from(recipe: Recipe, tmp_path: Path) -> None:
    _train(recipe, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    best = torch.load(path, weights_only=True)
    warm = Trainer(replace(recipe, init=str(path)), tmp_path / "next")
    warm.run()
    line = next(line["init"] for line in _log(tmp_path / "next") if "init" in line)
    assert sorted(line["taken"] + line["dropped"]) == sorted(best["ema"])
    assert all(torch.equal(tensor, best["ema"][name]) for name, tensor in read_weights(path).items())


def test_what_an_earlier_run_left_is_not_taken_for_a_new_one(recipe: Recipe, tmp_path: Path) -> None:
    old = _train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    trainer = Trainer(replace(recipe, seed=1), tmp_path / "run")

    def crashing(_: int | None) -> float:
        raise _Crash

    trainer.validate = crashing  # type: ignore[method-assign]
    with pytest.raises(_Crash):
        trainer.run()
    assert not (tmp_path / "run" / TINY / "training.json").exists()
    new = _train(replace(recipe, seed=1), tmp_path / "run")
    assert not all(torch.equal(old[name], new[name]) for name in new)


def test_what_a_crash_left_half_written_goes(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(_Crash):
        _train(replace(recipe, save_minutes=1e-9), tmp_path / "run", crash_at=5)
    folder = tmp_path / "run" / "checkpoints"
    (folder / ".step-000000006.pt.123").write_bytes(b"half")
    max(folder.glob("step-*.pt")).write_bytes(b"damaged")
    _train(recipe, tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.pt",
        "step-000000005.damaged",
        "step-000000008.pt",
        "step-000000018.pt",
    ]


def test_a_signal_in_the_last_step_of_a_stage_is_heard(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, tmp_path / "run")
    step = trainer.train_step

    def pressing() -> Outcome:
        if trainer.total_step == 7:
            signal.raise_signal(signal.SIGTERM)
        return step()

    trainer.train_step = pressing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.total_step == 8


@pytest.mark.gpu
@pytest.mark.parametrize(
    "change", [{}, {"compile": True}, {"workers": 1, "clip_grad": 1.0, "grad_checkpointing": True}]
)
def test_on_a_gpu(recipe: Recipe, tmp_path: Path, change: dict[str, Any]) -> None:
    own = replace(recipe, precision="bf16", **change)
    trainer = Trainer(own, tmp_path / "run", device=torch.device("cuda"))
    step = trainer.train_step

    def pressing() -> Outcome:
        if trainer.total_step == 12:
            signal.raise_signal(signal.SIGTERM)
        return step()

    trainer.train_step = pressing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    resumed = Trainer(own, tmp_path / "run", device=torch.device("cuda"))
    weights = resumed.run()
    assert resumed.total_step == 18
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert all(line["val_psnr"] > 5 for line in _log(tmp_path / "run") if "val_psnr" in line)


def test_another_recipe_is_not_resumed(recipe: Recipe, tmp_path: Path) -> None:
    _train(recipe, tmp_path / "run")
    with pytest.raises(DataError, match="of another recipe, got changed: seed"):
        _train(replace(recipe, seed=1), tmp_path / "run")


def test_a_run_that_has_finished_is_not_trained_again(recipe: Recipe, tmp_path: Path) -> None:
    weights = _train(recipe, tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    again = _train(recipe, tmp_path / "run", crash_at=0)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_a_damaged_newest_checkpoint_is_left_aside(recipe: Recipe, tmp_path: Path) -> None:
    whole = _train(recipe, tmp_path / "whole")
    with pytest.raises(_Crash):
        _train(replace(recipe, save_minutes=1e-9), tmp_path / "run", crash_at=5)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:999])
    notes: list[str] = []
    trainer = Trainer(recipe, tmp_path / "run", report=lambda line: notes.append(line.get("note", "")))
    resumed = trainer.run()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any("damaged checkpoint left aside" in note and newest.name in note for note in notes)
    assert "going on from step 4" in notes


def test_without_a_readable_checkpoint_nothing_is_lost(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "step-000000005.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match=r"no checkpoint in .* can be read, got .*step-000000005\.pt.*start afresh"):
        _train(recipe, tmp_path / "run")
    assert path.read_bytes() == b"no checkpoint"


def test_the_log_of_a_resumed_run_has_every_step_once(recipe: Recipe, tmp_path: Path) -> None:
    _train(recipe, tmp_path / "whole")
    trainer = Trainer(recipe, tmp_path / "parts", device=torch.device("cpu"))
    save = trainer.save

    def crashing(*, best: bool = False) -> None:
        if trainer.total_step == 18 and not best:
            raise _Crash
        save(best=best)

    trainer.save = crashing  # type: ignore[method-assign]
    with pytest.raises(_Crash):
        trainer.run()
    _train(recipe, tmp_path / "parts")

    def steps(folder: Path) -> list[tuple[object, ...]]:
        return [(line["total_step"], "loss" in line, line.get("val_psnr")) for line in _log(folder)]

    assert steps(tmp_path / "whole") == steps(tmp_path / "parts")


def test_the_best_validation_is_kept(recipe: Recipe, tmp_path: Path) -> None:
    stage = Stage(name="only", steps=12, lr=1e-3, batch=2, patch=11, schedule="halving", halve_every=99)
    trainer = Trainer(replace(recipe, stages=(stage,), val_every=3, val_images=2), tmp_path / "run")
    worse = iter([20.0, 30.0, 10.0, 25.0])
    trainer.validation.measure = lambda *_, **__: [next(worse)] * 2  # type: ignore[method-assign]
    trainer.run()
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert (best["step"], best["best"]) == (6, 30.0)


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("train", "nowhere", DataError, "no folder of images"),
        ("val", "nowhere", DataError, "no folder of images"),
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


@pytest.mark.parametrize("scale", [1, 3, 4])
def test_starting_from_another_scale(recipe: Recipe, tmp_path: Path, scale: int) -> None:
    source = models.get(TINY).build()
    nn.init.normal_(source.get_parameter("upsampler.0.weight"))
    target = models.get(TINY).build(scale=scale)
    report = initialise(target, source.state_dict())
    own, given = target.state_dict(), source.state_dict()
    adapted = {"4": ["upsampler.2.bias", "upsampler.2.weight"]}.get(str(scale), [])
    tail = {"1": 0, "3": 2, "4": 0}[str(scale)]
    assert report["adapted"] == adapted
    assert len(report["new"]) == len(report["shape"]) == tail
    assert sorted(report["taken"] + report["adapted"] + report["new"]) == sorted(own)
    assert all(torch.equal(own[name], given[name]) for name in report["taken"])
    assert all(torch.equal(own[name], given[name.replace(".2.", ".0.")]) for name in adapted)


def test_a_warm_start_is_logged(recipe: Recipe, tmp_path: Path) -> None:
    first = replace(recipe, stages=(replace(recipe.stages[0], patch=5),))
    _train(first, tmp_path / "x2")
    warm = replace(first, init=str(tmp_path / "x2" / TINY), model_config={"scale": 4})
    trainer = Trainer(warm, tmp_path / "x4")
    trainer.run()
    line = next(line["init"] for line in _log(tmp_path / "x4") if "init" in line)
    assert line["adapted"] == ["upsampler.2.bias", "upsampler.2.weight"]
    assert line["new"] == []


def test_blocks_computed_again_have_the_same_gradients(recipe: Recipe, tmp_path: Path) -> None:
    whole = _train(recipe, tmp_path / "whole")
    again = _train(replace(recipe, grad_checkpointing=True), tmp_path / "again")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_accumulated_batches_are_one_large_batch(recipe: Recipe, tmp_path: Path) -> None:
    large = replace(recipe, stages=(replace(recipe.stages[0], batch=4),))
    small = replace(recipe, stages=(replace(recipe.stages[0], batch=2),), accumulate=2)
    first, second = _train(large, tmp_path / "large"), _train(small, tmp_path / "small")
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [{"channels_last": False}, {"fused": False}])
def test_how_it_is_computed_hardly_matters(recipe: Recipe, tmp_path: Path, change: dict[str, bool]) -> None:
    short = replace(recipe, stages=recipe.stages[:1])
    first, second = _train(short, tmp_path / "first"), _train(replace(short, **change), tmp_path / "second")
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, "max-autotune-no-cudagraphs"])
def test_compiled(recipe: Recipe, tmp_path: Path, mode: bool | str) -> None:
    first, second = _train(recipe, tmp_path / "first"), _train(replace(recipe, compile=mode), tmp_path / "second")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=0)


def test_clipping_bounds_the_gradient(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, clip_grad=1e-3), tmp_path / "run")
    trainer._begin_stage(None)
    assert trainer.learner is not None
    assert trainer.train_step().grad_norm > 1e-2
    norms = [p.grad.norm() for p in trainer.learner.model.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_budget_ends_in_time_with_the_rate_at_zero(recipe: Recipe, tmp_path: Path) -> None:
    stages = (Stage(name="only", steps=100_000, lr=1e-3, batch=1, patch=5, attention=False),)
    trainer = Trainer(replace(recipe, stages=stages, val_every=10**6), tmp_path / "run", max_minutes=5 / 60)
    began = time.monotonic()
    trainer.run()
    assert time.monotonic() - began < 15
    assert 10 < trainer.total_step < 100_000
    last = [line for line in _log(tmp_path / "run") if "loss" in line][-1]
    assert last["lr"] < 1e-5
    record = json.loads((tmp_path / "run" / TINY / "training.json").read_text())
    assert (record["steps"], record["max_minutes"]) == (trainer.total_step, 5 / 60)
    assert record["samples"] == trainer.total_step


def test_a_bad_budget(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bad max_minutes, expected a positive number of minutes, got 0"):
        Trainer(recipe, tmp_path / "run", max_minutes=0)


def test_tensorboard(recipe: Recipe, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _train(replace(recipe, trackers=("tensorboard",)), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "sparse_attn"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_psnr")] == [6, 8, 14, 18]


def test_a_tracker_that_is_not_installed(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: False)
    with pytest.raises(ConfigError, match="tracker 'wandb' is not installed; pip install wandb"):
        Trainer(replace(recipe, trackers=("wandb",)), tmp_path / "run")


def test_tensors_of_another_shape_are_left_and_named() -> None:
    source, target = nn.Sequential(nn.Conv2d(3, 5, 1)), nn.Sequential(nn.Conv2d(3, 7, 1), create_attention("nla", 7))
    before = target[0].weight.detach().clone()
    report = initialise(target, {**source.state_dict(), "extra": torch.zeros(1)})
    assert report["shape"] == ["0.bias", "0.weight"]
    assert report["dropped"] == ["extra"]
    assert torch.equal(target[0].weight, before)
