"""What a run leaves at its end: weights in zoo form, and a record of how they were made."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparse_attn.benchmark import describe_machine
from sparse_attn.training.checkpoint import RunState
from sparse_attn.training.config import Recipe
from sparse_attn.weights import write_zoo_folder

if TYPE_CHECKING:
    from sparse_attn.training.loop import Trainer

RECORD = "training.json"
# What is published is stored smaller and in shards; here some tensors in float32 are larger than a shard.
_WHOLE = 2**40


def is_finished(out: Path, recipe: Recipe, state: RunState) -> bool:
    """Whether the run in `out`, whose newest checkpoint is `state`, has come to its end and left everything there."""
    last = recipe.stages[-1]
    return (
        state.stage == len(recipe.stages) - 1
        and state.position >= last.steps - 1e-6
        and (out / f"{last.name}.pt").is_file()
        and (out / recipe.model / RECORD).is_file()
    )


def forget_result(out: Path, recipe: Recipe) -> None:
    """Removes what an earlier run, whose checkpoints are gone, has left in `out`: it would be taken for this one's."""
    for path in [*(out / f"{stage.name}.pt" for stage in recipe.stages), out / recipe.model / RECORD]:
        path.unlink(missing_ok=True)


def write_result(trainer: Trainer, weights: dict[str, Tensor]) -> None:
    """Writes `<out>/<model>/`: the weights, then `training.json`."""
    name = trainer.recipe.model
    empty = {} if trainer.stage.attention else {"attention": None, "attention_at": ()}
    folder = trainer.out / name
    write_zoo_folder(folder, weights, model=name, config={**trainer.config, **empty}, shard_bytes=_WHOLE)
    temporary = folder / f".{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps(describe_run(trainer), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RECORD)


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """How a run was done, JSON-able: what it cost, on what, with which settings."""
    recipe = trainer.recipe
    stages = [
        {
            "name": stage.name,
            "steps": run["steps"],
            "batch": run["samples"] // max(1, run["steps"]),
            "patch": stage.patch,
            "lr": stage.lr,
            "optimizer": stage.optimizer or recipe.optimizer,
            "attention": stage.attention,
            "seconds": round(run["seconds"], 1),
        }
        for stage, run in zip(recipe.stages, trainer.stages_run, strict=True)
    ]
    shapes = trainer.cache.shapes
    return {
        "model": recipe.model,
        "command": trainer.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(trainer.seconds, 1),
        "steps": trainer.total_step,
        "samples": sum(run["samples"] for run in trainer.stages_run),
        "max_minutes": trainer.max_minutes,
        "stages": stages,
        "init": recipe.init and Path(recipe.init).name,
        "seed": recipe.seed,
        "optimizer": recipe.optimizer,
        "precision": recipe.precision,
        "compile": recipe.compile,
        "ema": recipe.ema,
        "skipped": trainer.skipped,
        "data": {
            "folder": Path(recipe.train).name,
            "images": len(shapes),
            "pixels": sum(h * w for h, w in shapes) * trainer.cache.scale**2,
        },
        "processes": trainer.accelerator.num_processes,
        "device": trainer.accelerator.device.type,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(str(trainer.accelerator.device)),
        "torch": torch.__version__,
    }
