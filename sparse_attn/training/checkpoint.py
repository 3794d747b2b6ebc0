"""Checkpoints of a run, written atomically: a crash leaves the last whole ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparse_attn.data import TileCache
from sparse_attn.errors import DataError
from sparse_attn.training.config import Recipe

KEPT = 2
BEST = "best.pt"


@dataclass(kw_only=True)
class RunState:
    """Where a run is: enough to go on as if it had never stopped.

    Args:
        recipe: what `identity` returned, to refuse resuming another recipe.
        stage: index of the current stage.
        step: steps done in it, skipped ones included; with the recipe's seed this is the sampler's place, too.
        total_step: steps done in all stages.
        position: place on the stage's schedule.
        seconds: training time so far.
        skipped: steps whose loss or gradient was not finite.
        best: the best validation PSNR so far, dB.
        stages: seconds, steps and samples of each stage so far, this one included.
        log_lines: lines of the run's log when it was written.
        model: state dict being optimised.
        ema: state dict of the averaged weights.
        averaged: how many updates the average has had.
        optimizer: the optimizer's state dict.
        draws: how often each attention has drawn fresh rotations.
        random: `random_state()` of each process.
    """

    recipe: dict[str, Any]
    stage: int
    step: int
    total_step: int
    position: float
    seconds: float
    skipped: int
    best: float
    stages: list[dict[str, Any]]
    log_lines: int
    model: dict[str, Any]
    ema: dict[str, Any]
    averaged: int
    optimizer: dict[str, Any]
    draws: list[int]
    random: list[dict[str, Any]]


def save_whole(path: Path, content: dict[str, Any]) -> None:
    """`torch.save` to a temporary file beside `path`, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Checkpoints:
    """The checkpoints of a run: the newest two, and the one with the best validation.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: list[Path] = []

    def paths(self) -> list[Path]:
        """The resumable ones, newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def save(self, state: RunState) -> Path:
        """Writes a checkpoint, then removes those older than the newest two."""
        path = self.folder / f"step-{state.total_step:09d}.pt"
        save_whole(path, vars(state))
        for old in self.paths()[KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, state: RunState) -> None:
        """Writes `best.pt`."""
        save_whole(self.folder / BEST, vars(state))

    def load(self, *, recipe: dict[str, Any], note: Callable[[str], None]) -> RunState | None:
        """The newest checkpoint that can be read; None where there is none.

        Args:
            recipe: what the run's recipe is, see `identity`.
            note: told of a newer one that is damaged.

        Raises:
            DataError: none of those there can be read, or they are of another recipe.
        """
        problems = []
        for path in self.paths():
            try:
                state = _read(path)
            except DataError as error:
                problems.append(str(error))
                self._damaged.append(path)
                continue
            for problem in problems:
                note(f"damaged checkpoint left aside: {problem}")
            _check_recipe(state, recipe, path)
            return state
        if problems:
            raise DataError(
                f"no checkpoint in {self.folder} can be read",
                got="; ".join(problems),
                remedy="delete the folder to start afresh",
            )
        return None

    def tidy(self) -> None:
        """Puts damaged checkpoints that `load` has met aside, and removes what a crash left half-written."""
        for path in self._damaged:
            path.rename(path.with_suffix(".damaged"))
        self._damaged = []
        for pattern in (".step-*.pt.*", f".{BEST}.*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _read(path: Path) -> RunState:
    try:
        return RunState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise DataError(f"{path}: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from error


def _check_recipe(state: RunState, recipe: dict[str, Any], path: Path) -> None:
    if state.recipe != recipe:
        changed = sorted(k for k in {*recipe, *state.recipe} if recipe.get(k) != state.recipe.get(k))
        raise DataError(
            f"checkpoint {path} is of another recipe",
            got=f"changed: {', '.join(changed)}",
            remedy="use another --out folder, or delete the checkpoints",
        )


def identity(recipe: Recipe, cache: TileCache) -> dict[str, Any]:
    """What decides a run's weights, as plain values: where the data lies and how often it is looked at do not."""
    images = hashlib.sha256(json.dumps([cache.names, cache.shapes]).encode()).hexdigest()
    fields = asdict(recipe)
    for name in ("val", "val_every", "val_images", "save_minutes", "workers", "trackers"):
        del fields[name]
    plain: dict[str, Any] = json.loads(json.dumps({**fields, "train": images}))
    return {**plain, "init": recipe.init and Path(recipe.init).name}


def random_state() -> dict[str, Any]:
    """The state of every global generator a network might draw from, as plain values and tensors."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - whoever draws from it, its state is the run's
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, [int(key) for key in keys], *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
