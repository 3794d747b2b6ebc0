"""`sparse-attn plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_attn.cli.output import write_bytes
from sparse_attn.errors import ConfigError
from sparse_attn.training.curves import curves, read_run


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs, as runs/<model>.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="An .svg or .png file.")] = Path("curves.svg"),
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
) -> None:
    """Draw loss, validation PSNR and learning rate of training runs."""
    kind = output.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise ConfigError(f"cannot draw {output}", expected="a name ending in .svg or .png")
    if output.exists() and not overwrite:
        raise ConfigError(f"cannot write {output}: it exists", remedy="pass --overwrite")
    logs = {str(folder): read_run(folder) for folder in runs}
    names = {folder: Path(folder).name for folder in logs}
    unique = len(set(names.values())) == len(names)
    write_bytes(output, curves({names[f] if unique else f: log for f, log in logs.items()}, kind=kind))
    typer.echo(f"written to {output}")
