"""Checkpoints of a run, written atomically: a crash leaves the last whole one."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_attn.data import TileCache
from sparse_attn.errors import DataError
from sparse_attn.training.config import Recipe


@dataclass(kw_only=True)
class RunState:
    """Where a run is: enough to go on as if it had never stopped.

    Args:
        recipe: what `identity` returned, to refuse resuming another recipe.
        stage: index of the current stage.
        step: optimizer steps done in it.
        total_step: optimizer steps done in all stages.
        seconds: training time so far.
        model: state dict being optimised.
        ema: state dict of the averaged weights.
        averaged: how many updates the average has had.
        optimizer: the optimizer's state dict.
        draws: how often each attention has drawn fresh rotations.
    """

    recipe: dict[str, Any]
    stage: int
    step: int
    total_step: int
    seconds: float
    model: dict[str, Any]
    ema: dict[str, Any]
    averaged: int
    optimizer: dict[str, Any]
    draws: list[int]


def save_whole(path: Path, content: dict[str, Any]) -> None:
    """`torch.save` to a temporary file beside `path`, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state(path: Path, state: RunState) -> None:
    """Writes a checkpoint."""
    save_whole(path, {f: getattr(state, f) for f in RunState.__dataclass_fields__})


def load_state(path: Path, *, recipe: dict[str, Any]) -> RunState:
    """Reads a checkpoint of this very recipe.

    Raises:
        DataError: unreadable, or of another recipe.
    """
    try:
        state = RunState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise DataError(f"cannot read checkpoint {path}", got=str(error), remedy="delete it to start afresh") from error
    if state.recipe != recipe:
        changed = sorted(k for k in recipe if recipe[k] != state.recipe.get(k))
        raise DataError(
            f"checkpoint {path} is of another recipe",
            got=f"changed: {', '.join(changed)}",
            remedy="use another --out folder, or delete the checkpoint",
        )
    return state


def identity(recipe: Recipe, cache: TileCache) -> dict[str, Any]:
    """What decides a run's weights, as plain values: where the data lies and how often it is looked at do not."""
    images = hashlib.sha256(json.dumps([cache.names, cache.shapes]).encode()).hexdigest()
    fields = asdict(recipe)
    for name in ("val", "val_every", "val_images", "save_minutes"):
        del fields[name]
    plain: dict[str, Any] = json.loads(json.dumps({**fields, "train": images}))
    return {**plain, "init": recipe.init and Path(recipe.init).name}
