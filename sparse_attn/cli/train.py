"""`sparse-attn train`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from sparse_attn.cli import options
from sparse_attn.cli.output import INTERRUPTED, print_error
from sparse_attn.errors import DataError
from sparse_attn.training import Recipe, Trainer, load_recipe

DATA_VARIABLE = "SPARSE_ATTN_DATA"
USUAL_DATA = (Path("data"), Path("../shared/data"))


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml, as in zoo/<model>/.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/<model>.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help=f"Where the recipe's folders are; by default ${DATA_VARIABLE}, data/ or ../shared/data/."),
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Weights to start from: a model folder or a file.")] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="End within so many minutes: the learning rate reaches zero when the time is up."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Replace a field of the recipe, as seed=1 or stages.full.lr=1e-4; may be given several times.",
        ),
    ] = None,
    device: options.Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a model by its recipe.

    Goes on where the run's folder left off. Ctrl-C saves. For several processes: torchrun --nproc-per-node 4 -m
    sparse_attn.cli train RECIPE, or accelerate launch.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    found = with_data(recipe, data, settings=settings or (), init=None if init is None else str(init))
    folder = out or Path("runs") / found.model
    with Report(found) as report:
        trainer = Trainer(
            found,
            folder,
            device=None if device is None else options.choose_device(device),
            report=report,
            max_minutes=max_minutes,
            command=shlex.join(["sparse-attn", *sys.argv[1:]]),
        )
        try:
            trainer.run()
        except KeyboardInterrupt:
            report.bar.close()
            if trainer.main:
                print_error(f"interrupted at step {trainer.total_step}, saved; the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
    if trainer.main:
        steps = f"trained {trainer.total_step} steps" if trainer.total_step else "had been trained before"
        typer.echo(f"{steps}: weights in {folder / found.model}, log in {folder}/log.jsonl")


def with_data(path: Path, data: Path | None, *, settings: Sequence[str] = (), init: str | None = None) -> Recipe:
    """The recipe at `path`, its relative `train` and `val` found below the data folder.

    Without `data` they may also be beside the recipe. `settings` and `init` replace fields, see `load_recipe`.

    Raises:
        DataError: there is no data folder.
        ConfigError: a bad recipe.
    """
    recipe = load_recipe(path, settings=settings, init=init)
    beside = path.parent.resolve()
    folders = {"train": Path(recipe.train), "val": Path(recipe.val)}
    own = {name: folder.relative_to(beside) for name, folder in folders.items() if folder.is_relative_to(beside)}
    if not own or (data is None and all(folder.exists() for folder in folders.values())):
        return recipe
    root = data_folder(data)
    own_folders = {name: str((root / folder).resolve()) for name, folder in own.items()}
    return load_recipe(path, settings=settings, init=init, **own_folders)


def data_folder(given: Path | None) -> Path:
    """What was given, else the environment's, else the first usual one that exists.

    Raises:
        DataError: none of them.
    """
    named = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    candidates = USUAL_DATA if named is None else (named,)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataError(
        "no data folder",
        got=f"nothing at {' or '.join(map(str, candidates))}",
        remedy=f"pass --data or set {DATA_VARIABLE}",
    )


class Report:
    """A progress bar over all stages; notes and validations stay as lines above it.

    Args:
        recipe: what is run.
    """

    def __init__(self, recipe: Recipe) -> None:
        steps = [stage.steps for stage in recipe.stages]
        starts = accumulate([0, *steps[:-1]])
        self.starts = {stage.name: start for stage, start in zip(recipe.stages, starts, strict=True)}
        self.bar = tqdm(total=sum(steps), disable=None, unit="step", smoothing=0.1)
        self.shown: dict[str, str] = {}

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, line: dict[str, Any]) -> None:
        """Shows a line of the trainer's log."""
        if "note" in line:
            self._say(line["note"])
        if "note" in line or "init" in line:
            return
        done = self.starts[line["stage"]] + round(line["progress"] * line["steps"])
        if not self.shown and not self.bar.disable:
            # A resumed run's earlier steps say nothing about the time the others take.
            self.bar.initial = self.bar.n = done
        self.bar.update(done - self.bar.n)
        if "loss" in line:
            self.shown["loss"] = f"{line['loss']:.5f}"
        if "val_psnr" in line:
            self.shown["psnr"] = f"{line['val_psnr']:.2f}"
            images = line["val_images"]
            self._say(f"{line['stage']} {line['step']}: {line['val_psnr']:.3f} dB on {images} images")
        if "skipped" in line:
            self._say(f"{line['stage']} {line['step']}: step left out ({line['reason']})")
        self.bar.set_description_str(line["stage"], refresh=False)
        self.bar.set_postfix(self.shown)

    def _say(self, text: str) -> None:
        with self.bar.external_write_mode():
            typer.echo(text)
