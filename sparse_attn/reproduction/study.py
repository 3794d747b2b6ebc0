"""From a plan to a record: what is missing is trained, what is missing is tested."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_attn.errors import ConfigError, DataError
from sparse_attn.reproduction.plan import Ablation
from sparse_attn.reproduction.record import Record, make_cell
from sparse_attn.reproduction.runs import Run, fingerprint, make_run, measure, train
from sparse_attn.training import Recipe

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is spent.

    Args:
        scale: its name.
        recipe: common to all runs but for the network and the seed.
        seeds: how many; 0 is the first.
        budget: minutes for the training of all runs together, shared equally, or None for the recipe's steps. Each
            run's part does not depend on which others are done, so that a table never mixes runs of different ones.
    """

    scale: str
    recipe: Recipe
    seeds: int
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError("bad seeds", expected="at least 1", got=self.seeds)
        if self.budget is not None and not self.budget > 0:
            raise ConfigError("bad budget", expected="a positive number of minutes", got=self.budget)


def plan_runs(ablation: Ablation, effort: Effort, out: Path) -> tuple[dict[tuple[str, int], Run], float | None]:
    """The run of each variant and seed, and the minutes of each; variants with the same network share theirs.

    Raises:
        ConfigError: the recipe is for another model.
        DataError: no training images.
    """
    recipe = effort.recipe
    if ablation.model != recipe.model:
        raise ConfigError(
            f"{ablation.name} is about another model",
            expected=ablation.model,
            got=recipe.model,
            remedy="change --scale",
        )
    data = fingerprint(Path(recipe.train))

    def runs(minutes: float | None) -> dict[tuple[str, int], Run]:
        return {
            (variant.name, seed): make_run(
                recipe,
                ablation.config(variant, recipe.model_config),
                seed=seed,
                minutes=minutes,
                data=data,
                out=out,
            )
            for variant in ablation.variants
            for seed in range(effort.seeds)
        }

    unlimited = runs(None)
    if effort.budget is None:
        return unlimited, None
    minutes = effort.budget / len({run.folder for run in unlimited.values()})
    return runs(minutes), minutes


def reproduce(
    ablation: Ablation,
    effort: Effort,
    *,
    data: Path,
    out: Path,
    device: torch.device,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[Recipe], AbstractContextManager[Report]] | None = None,
    keep: Callable[[Record], None] = lambda _: None,
    command: str | None = None,
) -> Record:
    """Trains and tests what is missing of a table or figure.

    Args:
        ablation: what.
        effort: at what scale.
        data: the folder that the ablation's benchmark is in.
        out: runs are found and made in `out/runs`.
        device: where.
        say: told what is going on.
        progress: makes, for a run's recipe, what shows its log.
        keep: given the record after each run, so that nothing is lost.
        command: for the record.

    Raises:
        ConfigError: launched as several processes, or a recipe for another model.
        DataError: no training images or no benchmark.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("ablations run as one process", got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}")
    benchmark = data / ablation.benchmark
    if not benchmark.is_dir():
        raise DataError(f"no benchmark at {benchmark}", expected="a folder with HR and LR", remedy="check --data")
    runs, minutes = plan_runs(ablation, effort, out)
    different = {run.folder: run for run in runs.values()}
    missing = [run for run in different.values() if run.record is None]
    each = "" if minutes is None else f", {minutes:.3g} minutes each"
    say(f"{ablation.name}: {len(different)} runs, {len(missing)} to train{each}")
    record = _describe(ablation, effort, minutes, command)
    for number, run in enumerate(missing, 1):
        say(f"run {number} of {len(missing)}: {run.folder.name}")
        if progress is None:
            train(run, device=device, report=lambda _: None, command=command)
        else:
            with progress(run.recipe) as report:
                train(run, device=device, report=report, command=command)
        _fill(record, runs, benchmark, device)
        keep(record)
    _fill(record, runs, benchmark, device)
    keep(record)
    return record


def _describe(ablation: Ablation, effort: Effort, minutes: float | None, command: str | None) -> Record:
    recipe = {name: value for name, value in asdict(effort.recipe).items() if name not in ("train", "val", "init")}
    return Record(
        ablation=ablation,
        scale=effort.scale,
        recipe={**recipe, "train": Path(effort.recipe.train).name, "val": Path(effort.recipe.val).name},
        seeds=list(range(effort.seeds)),
        budget=effort.budget,
        minutes_each=minutes,
        command=command,
    )


def _fill(record: Record, runs: dict[tuple[str, int], Run], benchmark: Path, device: torch.device) -> None:
    """Puts everything that is finished into the record."""
    record.cells = []
    for variant in record.ablation.variants:
        done = {seed: run for (name, seed), run in runs.items() if name == variant.name and run.record is not None}
        for condition in record.ablation.conditions(variant):
            values = {}
            for seed, run in done.items():
                measured = measure(run, condition, benchmark, device=device)
                values[seed] = measured["psnr"]
                known = record.runs.setdefault(run.folder.name, {"training": run.record, "measured": {}})
                known["measured"][condition.name] = measured
            folders = {seed: run.folder.name for seed, run in done.items()}
            record.cells.append(make_cell(record.ablation, variant, condition, values, folders))
