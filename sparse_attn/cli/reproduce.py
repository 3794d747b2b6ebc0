"""`sparse-attn reproduce`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import typer

from sparse_attn.benchmark import describe_machine
from sparse_attn.cli import options
from sparse_attn.cli.output import INTERRUPTED, print_error, write_text
from sparse_attn.cli.train import DATA_VARIABLE, Report, data_folder, with_data
from sparse_attn.reproduction import (
    ARITHMETIC,
    Effort,
    Record,
    chart,
    count_table,
    counts_chart,
    find_ablation,
    find_scale,
    load_ablation,
    load_counts,
    markdown,
    report,
    reproduce,
    require_matplotlib,
)
from sparse_attn.reproduction.arithmetic import ACCOUNTING, CONVENTION, counts_rows
from sparse_attn.reproduction.text import aligned, file_names, markdown_table


def command(
    name: Annotated[str, typer.Argument(help="table2, table3, table4, table5, figure5 or figure6.")],
    budget: Annotated[
        float | None, typer.Option(help="Minutes for the training of all runs together, shared equally.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network.")] = 3,
    scale: Annotated[str, typer.Option(help="Of effort: tiny, small, paper, or a recipe file.")] = "small",
    data: Annotated[
        Path | None,
        typer.Option(help=f"Training and benchmark images; by default ${DATA_VARIABLE}, data/ or ../shared/data/."),
    ] = None,
    out: Annotated[Path, typer.Option(help="For runs, records and charts.")] = Path("runs/ablations"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the scale's recipe, as for train."),
    ] = None,
    device: options.Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Measure a table or figure of the paper again.

    Trains what is missing, goes on where it was interrupted, and shows the paper's figures beside the measured ones.
    Runs that tables share are trained once. table5 is counted, not trained.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    found = find_ablation(name)
    require_matplotlib()
    if name == ARITHMETIC:
        _count(found, out)
        return
    ablation = load_ablation(found)
    recipe = with_data(find_scale(scale), data, settings=settings or ())
    said = {"budget": budget, "seeds": seeds, "scale": scale, "data": data, "out": out, "device": device}
    said["threads"] = threads
    words = [word for key, value in said.items() if value is not None for word in (f"--{key}", str(value))]
    words += [word for setting in settings or () for word in ("--set", setting)]
    files = file_names(name, out)

    def keep(record: Record) -> None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(files["json"], record.to_json())
        write_text(files["md"], markdown(record, picture=files["svg"].name))
        write_text(files["svg"], chart(record))

    try:
        record = reproduce(
            ablation,
            Effort(scale=scale, recipe=recipe, seeds=seeds, budget=budget),
            data=data_folder(data),
            out=out,
            device=options.choose_device(device),
            say=typer.echo,
            progress=Report,
            keep=keep,
            command=shlex.join(["sparse-attn", "reproduce", name, *words]),
        )
    except KeyboardInterrupt:
        print_error("interrupted and saved; the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"\n{report(record)}\n")
    typer.echo(f"written to {', '.join(map(str, files.values()))}")


def _count(path: Path, out: Path) -> None:
    counts = load_counts(path)
    rows = count_table(counts)
    table = counts_rows(rows)
    head = f"{counts.side:g}x{counts.side:g} pixels, {counts.channels:g} channels. {CONVENTION}"
    reasons = [f"{row.name}: {row.flops / 1e9:.3f} counted, {row.paper:.1f} in the paper: {row.why}" for row in rows]
    typer.echo("\n".join([f"{counts.title} ({counts.source})", head, "", *aligned(table), "", *reasons, ACCOUNTING]))
    files = file_names(path.stem, out)
    record = {
        "title": counts.title,
        "source": counts.source,
        "paper_source": counts.paper_source,
        "convention": CONVENTION,
        "accounting": ACCOUNTING,
        "channels": counts.channels,
        "side": counts.side,
        "rows": [{**asdict(row), "multiply_adds": row.multiply_adds} for row in rows],
        "command": shlex.join(["sparse-attn", "reproduce", path.stem, "--out", str(out)]),
        "machine": describe_machine("cpu"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    page = [f"# {counts.title}", f"Source: {counts.source}. Paper's figures: {counts.paper_source}.", head]
    page += [
        markdown_table(table),
        f"![{counts.title}]({files['svg'].name})",
        "\n".join(f"- {r}" for r in [*reasons, ACCOUNTING]),
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_text(files["json"], json.dumps(record, indent=1) + "\n")
    write_text(files["md"], "\n\n".join(page) + "\n")
    write_text(files["svg"], counts_chart(rows))
    typer.echo(f"\nwritten to {', '.join(map(str, files.values()))}")
