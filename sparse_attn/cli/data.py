"""`sparse-attn data list` and `sparse-attn data get`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from sparse_attn.cli.output import print_table
from sparse_attn.data.catalogue import CATALOGUE, Dataset, find_dataset
from sparse_attn.data.install import install

app = typer.Typer(no_args_is_help=True, help="Fetch the data sets of the field.")


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the data sets that can be fetched.

    With the terms on which their owners give them.
    """
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(dataset) for dataset in CATALOGUE.values()], indent=2))
        return
    rows = [[dataset.name, dataset.title, dataset.images, _size(dataset)] for dataset in CATALOGUE.values()]
    print_table(["name", "title", "images", "download"], rows)
    for dataset in CATALOGUE.values():
        typer.echo(f"\n{dataset.name}: {dataset.paper}")
        typer.echo(f"  {dataset.terms}")
        for url in dict.fromkeys(part.archive.url for part in dataset.parts):
            typer.echo(f"  {url}")


@app.command("get")
def get_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=f"Of {', '.join(CATALOGUE)}.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", envvar="SPARSE_ATTN_DATA", help="The data folder.")] = Path(
        "data"
    ),
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="SPARSE_ATTN_DATA_MIRROR",
            help="A folder that holds the archives by their names, instead of the official places.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives, in FOLDER/.downloads/.")] = False,
) -> None:
    """Fetch, check and unpack data sets.

    Goes on where it was interrupted, and does nothing for what is complete.
    """
    datasets = [find_dataset(name) for name in dict.fromkeys(name.lower() for name in names)]
    with Bar() as bar:
        install(datasets, to, mirror=mirror, keep=keep, say=bar.say, progress=bar)


class Bar:
    """A progress bar for one thing after another; lines stay above it."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None
        self.what = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Shows how far something is."""
        if self.bar is None or what != self.what:
            self.close()
            unit = {"unit": "file"} if what.startswith("unpacking") else {"unit": "B", "unit_scale": True}
            self.bar, self.what = tqdm(desc=what, total=total, initial=done, disable=None, leave=False, **unit), what
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def say(self, line: str) -> None:
        """Prints a line."""
        self.close()
        typer.echo(line)


def _size(dataset: Dataset) -> str:
    sizes = [part.archive.size for part in dataset.parts]
    return "not published" if None in sizes else f"{sum(size or 0 for size in sizes) / 1e9:.2f} GB"
