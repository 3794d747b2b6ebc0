"""The `sparse-attn` command: one file a sub-command, argument parsing and printing only."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer

from sparse_attn.cli import (
    attentions,
    bench,
    build_native,
    data,
    demo,
    evaluate,
    export,
    import_,
    inspect,
    models,
    plot,
    reproduce,
    summary,
    throughput,
    train,
    upscale,
)
from sparse_attn.cli.output import INTERRUPTED, Commands, print_error

app = typer.Typer(
    name="sparse-attn",
    cls=Commands,
    help="Enlarge photos with super-resolution networks built on dense and sparse attention; train and measure them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    upscale,
    models,
    attentions,
    summary,
    evaluate,
    bench,
    train,
    plot,
    throughput,
    reproduce,
    demo,
    import_,
    inspect,
    export,
    build_native,
):
    app.command(module.__name__.rpartition(".")[2].rstrip("_").replace("_", "-"))(module.command)
app.add_typer(data.app, name="data")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(metadata.version("sparse-attn"))
    except metadata.PackageNotFoundError:
        typer.echo("unknown: run from a source tree that is not installed")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Runs the command with the process's arguments, and exits."""
    try:
        app(prog_name="sparse-attn")
    except KeyboardInterrupt:
        print_error("interrupted")
        sys.exit(INTERRUPTED)
