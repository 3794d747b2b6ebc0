"""The runs of an ablation: each with its complete settings, trained once whoever needs it, tested when needed."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_attn.attention import attentions, configure_attention
from sparse_attn.backbones import models
from sparse_attn.errors import DataError
from sparse_attn.evaluation import evaluate
from sparse_attn.reproduction.plan import Condition
from sparse_attn.training import Recipe, Stage, Trainer
from sparse_attn.training.checkpoint import save_whole
from sparse_attn.training.journal import LOG, read_log
from sparse_attn.training.result import RECORD
from sparse_attn.weights import read_weights

# What does not decide a run's weights; the training images are known by their names and sizes instead.
_VALIDATION = {"val", "val_every", "val_images", "final_val_images", "health"}
_LEFT_OUT = _VALIDATION | {"train", "save_minutes", "workers", "trackers", "init"}
_LEAST_MINUTES = 1e-3


@dataclass(frozen=True, kw_only=True)
class Run:
    """One network, one seed.

    Args:
        recipe: what is done.
        minutes: the budget, or None for the recipe's steps.
        folder: named by the settings.
        settings: all that decides its weights and is not a default, JSON-able.
    """

    recipe: Recipe
    minutes: float | None
    folder: Path
    settings: Mapping[str, Any]

    @property
    def record(self) -> dict[str, Any] | None:
        """What the trainer wrote about it; None while it is not finished."""
        path = self.folder / self.recipe.model / RECORD
        found: dict[str, Any] | None = _read(path) if path.is_file() else None
        return found


def make_run(
    recipe: Recipe, config: Mapping[str, Any], *, seed: int, minutes: float | None, data: str, out: Path
) -> Run:
    """The run of a network's configuration and a seed.

    Args:
        recipe: of the scale of effort.
        config: the whole `model_config`.
        seed: of weights, patches, and the attention's rotations or partitions.
        minutes: of the run, or None.
        data: `fingerprint` of the training images.
        out: runs get folders below `out/runs`.
    """
    own = replace(recipe, seed=seed, model_config=_seeded(config, seed), init=None)
    stages = [_not_default(stage) for stage in own.stages]
    settings = {name: value for name, value in _not_default(own).items() if name not in _LEFT_OUT}
    settings |= {"stages": stages, "seed": seed, "train": data, "minutes": minutes}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    folder = out / "runs" / f"{config.get('attention') or 'none'}-seed{seed}-{digest}"
    init = str(folder / "init.pt")
    return Run(recipe=replace(own, init=init), minutes=minutes, folder=folder, settings=settings)


def train(
    run: Run,
    *,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    command: str | None,
) -> None:
    """Trains a run to its end, from the start or from where it was interrupted.

    Raises:
        KeyboardInterrupt: interrupted, and saved.
    """
    init = Path(str(run.recipe.init))
    if not init.is_file():
        save_whole(init, initial_weights(run.recipe))
        write_whole(run.folder / "settings.json", json.dumps(run.settings, indent=1) + "\n")
    limit = {} if run.minutes is None else {"max_minutes": max(_LEAST_MINUTES, run.minutes - spent_minutes(run.folder))}
    Trainer(run.recipe, run.folder, device=device, report=report, command=command, **limit).run()


def initial_weights(recipe: Recipe) -> dict[str, Tensor]:
    """The weights a run starts from: those of the trunk depend on the seed only, not on the attention."""
    entry = models.get(recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        whole = entry.build(**recipe.model_config)
        torch.manual_seed(recipe.seed)
        trunk = entry.build(**{**recipe.model_config, "attention": None})
    return {**whole.state_dict(), **trunk.state_dict()}


def spent_minutes(folder: Path) -> float:
    """What an interrupted run had used up at its newest checkpoint."""
    saved = [int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*.pt")]
    if not saved or not (folder / LOG).is_file():
        return 0.0
    lines = [line for line in read_log(folder) if line.get("total_step", 0) <= max(saved)]
    return max((float(line["seconds"]) for line in lines if "seconds" in line), default=0.0) / 60.0


def measure(run: Run, condition: Condition, benchmark: Path, *, device: torch.device) -> dict[str, Any]:
    """PSNR and SSIM of a finished run under a condition; measured once, kept in the run's folder.

    Args:
        run: finished.
        condition: what is changed before the test.
        benchmark: holds `HR/` and `LR/`.
        device: where.
    """
    path = run.folder / "measured.json"
    known: dict[str, Any] = _read(path) if path.is_file() else {}
    key = json.dumps({"benchmark": fingerprint(benchmark), "settings": dict(condition.settings)}, sort_keys=True)
    if key not in known:
        model = models.get(run.recipe.model).build(**run.recipe.model_config)
        model.load_state_dict(read_weights(run.folder / run.recipe.model))
        if condition.settings:
            configure_attention(model, **condition.settings)
        known[key] = evaluate(model, benchmark, device=device, name=run.folder.name).to_dict()
        write_whole(path, json.dumps(known, indent=1) + "\n")
    found: dict[str, Any] = known[key]
    return found


def fingerprint(folder: Path) -> str:
    """Of the names and sizes of a folder's files, so that data may move but not change.

    Raises:
        DataError: no such folder, or it is empty.
    """
    found = [Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names]
    files = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in found if path.is_file())
    if not files:
        raise DataError(f"nothing in {folder}", expected="a folder of images", remedy="check --data")
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _not_default(values: Recipe | Stage) -> dict[str, Any]:
    """A field that is added to recipes later, and left at its default, does not make another run of an old one."""
    return {f.name: value for f in fields(values) if (value := getattr(values, f.name)) != f.default}


def _seeded(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A slot hashes by its position else: the spread over seeds would leave the luck of the rotations out."""
    name = config.get("attention")
    if name is None or "seed" not in inspect.signature(attentions.get(name)).parameters:
        return dict(config)
    return {**config, "attention_kwargs": {"seed": seed, **(config.get("attention_kwargs") or {})}}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged", got=str(error), remedy="delete its folder to train it again") from error
