"""`sparse-attn throughput`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sparse_attn.backbones import models
from sparse_attn.benchmark.record import describe_machine
from sparse_attn.cli import options
from sparse_attn.cli.output import FAILED, print_error, print_table, write_text
from sparse_attn.errors import ConfigError, DataError
from sparse_attn.training import load_recipe
from sparse_attn.training.throughput import CompileMode, Throughput, best, measure_throughput

_WORDS: dict[str, CompileMode] = {"false": False, "true": True}


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml; what it trains last is measured.")],
    batches: Annotated[
        str | None, typer.Option(help="B, one or more: 8,16,32; by default the recipe's, its half and its double.")
    ] = None,
    patches: Annotated[str | None, typer.Option(help="Sides of the LR patches; by default the recipe's.")] = None,
    compile_modes: Annotated[
        str, typer.Option("--compile", help="false, true or modes of torch.compile, one or more.")
    ] = "false,true",
    seconds: Annotated[float, typer.Option(min=0.1, help="No case is begun after them.")] = 60.0,
    each: Annotated[float, typer.Option(min=0.01, help="Seconds a case, after its warm-up.")] = 4.0,
    device: options.Device = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number there, after each case.")] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="Write the fastest way to compile there, as words for `sparse-attn train`, one a line."),
    ] = None,
) -> None:
    """Measure steps of training per second.

    Over batches and ways to compile, on random input: no data is needed. The batch is yours to choose, as the
    learning rate depends on it.
    """
    for file in (json_file, settings):
        if file is not None and not file.parent.is_dir():
            raise DataError(f"cannot write {file}: no such folder", remedy="create it first")
    plan = load_recipe(recipe)
    modes = [_WORDS.get(word, word) for word in compile_modes.split(",")]
    for mode in modes:
        # The recipe knows which ones there are.
        replace(plan, compile=mode)
    stage = plan.stages[-1]
    where = options.choose_device(device)
    model = models.get(plan.model).build(**{**plan.model_config, **({} if stage.attention else {"attention": None})})

    def keep(records: list[Throughput]) -> None:
        if json_file is not None:
            write_text(json_file, _json(plan.model, records, str(where)))
        if settings is not None:
            fastest = best(records, batch=stage.batch) or best(records)
            text = "" if fastest is None else f"--set\ncompile={_word(fastest.compile)}\n"
            write_text(settings, text)

    records = measure_throughput(
        model,
        batches=_numbers("batches", batches, (stage.batch, max(1, stage.batch // 2), 2 * stage.batch)),
        patches=_numbers("patches", patches, (stage.patch,)),
        compile_modes=modes,
        precisions=(plan.precision,),
        device=where,
        seconds_each=each,
        seconds=seconds,
        keep=keep,
    )
    _print(records)
    fastest = best(records)
    if fastest is None:
        print_error("no case could be timed")
        raise typer.Exit(FAILED)
    typer.echo(
        f"most samples a second: batch {fastest.batch}, patch {fastest.patch}, compile {_word(fastest.compile)}, "
        f"{fastest.precision}"
    )


def _print(records: list[Throughput]) -> None:
    header = ["batch", "patch", "compile", "precision", "steps/s", "samples/s", "first s", "peak MB", "problem"]
    rows = [
        [
            str(r.batch),
            str(r.patch),
            _word(r.compile),
            r.precision,
            *(
                "" if value is None else f"{value:.{digits}f}"
                for value, digits in (
                    (r.steps_per_second, 2),
                    (r.samples_per_second, 1),
                    (r.first_seconds, 1),
                    (None if r.peak_bytes is None else r.peak_bytes / 1e6, 0),
                )
            ),
            r.problem or "",
        ]
        for r in records
    ]
    print_table(header, rows, right=header[:2] + header[4:8])


def _json(model: str, records: list[Throughput], device: str) -> str:
    content = {
        "model": model,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "machine": describe_machine(device),
        "cases": [record.to_dict() for record in records],
    }
    return json.dumps(content, indent=1) + "\n"


def _word(mode: CompileMode) -> str:
    return mode if isinstance(mode, str) else str(mode).lower()


def _numbers(name: str, text: str | None, own: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return tuple(dict.fromkeys(own))
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"bad {name}", expected="positive whole numbers, as 8,16", got=repr(text))
    return numbers
