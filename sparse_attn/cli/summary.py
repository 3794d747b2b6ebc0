"""`sparse-attn summary`."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_attn.errors import ConfigError
from sparse_attn.factory import create_model
from sparse_attn.summary import summary


def command(
    name: Annotated[str, typer.Argument(help="A name of `sparse-attn models`.")],
    size: Annotated[str, typer.Option(help="Of the input: batch x channels x height x width.")] = "1x3x48x48",
    depth: Annotated[int, typer.Option(min=1, help="Levels of modules in the table.")] = 3,
) -> None:
    """Print a model's layers, parameters and arithmetic.

    It runs twice on the CPU, with random weights: for the table, and to count the arithmetic.
    """
    try:
        shape = tuple(int(side) for side in size.split("x"))
    except ValueError as error:
        raise ConfigError("bad size", expected="BxCxHxW, as 1x3x48x48", got=repr(size)) from error
    typer.echo(str(summary(create_model(name), shape, depth=depth)))
