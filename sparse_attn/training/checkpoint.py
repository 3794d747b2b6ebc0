"""Checkpoints of a run, written atomically: a crash leaves the last whole one."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_attn.errors import DataError


@dataclass(kw_only=True)
class RunState:
    """Where a run is: enough to go on as if it had never stopped.

    Args:
        recipe: the recipe as a dictionary, to refuse resuming another one.
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


def save_state(path: Path, state: RunState) -> None:
    """Writes `state` to a temporary file beside `path`, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({f: getattr(state, f) for f in RunState.__dataclass_fields__}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def as_plain(recipe: object) -> dict[str, Any]:
    """A recipe dataclass as nested dictionaries and lists, as a checkpoint stores it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(asdict(recipe))  # type: ignore[call-overload]
