"""`sparse-attn bench`."""

from __future__ import annotations

import fnmatch
import shlex
from pathlib import Path
from typing import Annotated

import torch
import typer

from sparse_attn.attention import list_attention
from sparse_attn.benchmark import SUITES, Setup, measure, plots, report
from sparse_attn.benchmark.bars import Bar, bars_of, entries_of, toys
from sparse_attn.benchmark.cases import BLOCKS, GRIDS, Entry
from sparse_attn.benchmark.contenders import CONTENDERS
from sparse_attn.cli import options
from sparse_attn.cli.output import FAILED, write_text
from sparse_attn.errors import ConfigError, DataError, unknown_name

# What the bars are about is among the contenders already.
_OWN = {"nlsa", "nla"}


def command(
    suite: Annotated[str, typer.Option(help=f"One of {', '.join(SUITES)}.")] = "quick",
    channels: Annotated[str | None, typer.Option(help="C, one or more: 64,256.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Sides of the square maps: 48,100.")] = None,
    batch: Annotated[str | None, typer.Option(help="B, one or more.")] = None,
    rounds: Annotated[str | None, typer.Option(help="R, one or more.")] = None,
    bucket_size: Annotated[int | None, typer.Option(help="k.")] = None,
    contenders: Annotated[str, typer.Option(help="Wildcards, as 'authors,blocked*'.")] = "*",
    attentions: Annotated[str, typer.Option(help="Wildcards of the other registered attentions; '' for none.")] = "*",
    runs: Annotated[int, typer.Option(min=1, help="Timed turns of each contender.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch; by default as many as it takes.")] = None,
    limit: Annotated[float, typer.Option(min=0.1, help="Leave out what takes more seconds a pass.")] = 30.0,
    device: options.Device = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number there, after each case.")] = None,
    plots_folder: Annotated[Path | None, typer.Option("--plots", help="Write SVG plots there.")] = None,
) -> None:
    """Measure speed and memory.

    `bars` judges this package's claims; `size`, `width`, `rounds` and `batch` vary one thing; `quick` runs everything
    on toys, and its numbers mean nothing. Each contender is checked first, then all take turns, each in a process of
    its own.
    """
    for folder in (json_file and json_file.parent, plots_folder):
        if folder is not None and not folder.is_dir():
            raise DataError(f"cannot write to {folder}: no such folder", remedy="create it first")
    where = options.choose_device(device)
    if where.type not in ("cpu", "cuda"):
        raise ConfigError("bad device", expected="cpu or cuda, whose time can be told", got=str(where))
    setup = Setup(
        suite=suite, device=str(where), threads=threads or torch.get_num_threads(), runs=runs, limit=float(limit)
    )
    lists = {"channels": channels, "sizes": sizes, "batch": batch, "rounds": rounds}
    numbers = {name: _numbers(name, text) for name, text in lists.items() if text is not None}
    entries, bars = _plan(suite, setup.kind, numbers, bucket_size, attentions)
    said: dict[str, object] = {
        "suite": suite,
        **lists,
        "bucket-size": bucket_size,
        "contenders": contenders,
        "attentions": attentions,
    }
    said |= {"runs": runs, "threads": setup.threads, "limit": limit, "device": setup.device}
    words = [word for name, value in said.items() if value is not None for word in (f"--{name}", str(value))]
    record = measure(
        setup,
        _only(entries, contenders),
        bars,
        say=lambda text: typer.echo(text, err=True),
        keep=lambda record: None if json_file is None else write_text(json_file, record.to_json()),
        command=shlex.join(["sparse-attn", "bench", *words]),
    )
    typer.echo(report(record))
    if json_file is not None:
        typer.echo(f"written to {json_file}")
    if plots_folder is not None:
        for name, svg in plots(record).items():
            write_text(plots_folder / name, svg)
            typer.echo(f"written to {plots_folder / name}")
    if any(row.failed for row in record.rows):
        raise typer.Exit(FAILED)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"bad {name}", expected="whole numbers, as 48,100", got=repr(text)) from None


def _plan(
    suite: str, kind: str, numbers: dict[str, tuple[int, ...]], bucket_size: int | None, attentions: str
) -> tuple[list[Entry], list[Bar]]:
    """The cases with their contenders, and the bars."""
    if suite not in SUITES:
        raise unknown_name("suite", suite, SUITES)
    if suite in GRIDS:
        others = [name for name in list_attention() if name not in _OWN and _matches(name, attentions)]
        grid = GRIDS[suite].replaced(bucket_size=bucket_size, **numbers)
        return [(case, (*BLOCKS, *others)) for case in grid.cases()], []
    if numbers or bucket_size:
        given = [*numbers, *(["bucket_size"] if bucket_size else [])]
        raise ConfigError(
            f"suite {suite!r} has its own cases", got=", ".join(given), remedy=f"use a suite of {', '.join(GRIDS)}"
        )
    bars = toys() if suite == "quick" else bars_of(kind)
    return entries_of(bars), bars


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern.strip()) for pattern in patterns.split(","))


def _only(entries: list[Entry], patterns: str) -> list[Entry]:
    kept = [(case, tuple(name for name in names if _matches(name, patterns))) for case, names in entries]
    kept = [(case, names) for case, names in kept if names]
    if not kept:
        raise unknown_name("contender of this suite", patterns, {*CONTENDERS, *list_attention()})
    return kept
