"""`sparse-attn models`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sparse_attn.cli.output import print_table
from sparse_attn.errors import unknown_name
from sparse_attn.factory import create_model, list_models, model_config


def command(
    pattern: Annotated[str, typer.Argument(help="A shell wildcard, in quotes: 'nlsn*'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with weights on this machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models.

    With scale, number of parameters, and whether weights are on this machine.
    """
    names = list_models(pattern, pretrained=pretrained)
    if not names and not pretrained:
        raise unknown_name("model", pattern, list_models())
    with_weights = set(list_models(pretrained=True))
    records = [
        {
            "name": name,
            "scale": model_config(name).get("scale"),
            "parameters": sum(p.numel() for p in create_model(name, device="meta").parameters()),
            "pretrained": name in with_weights,
        }
        for name in names
    ]
    if as_json:
        typer.echo(json.dumps(records, indent=2))
        return
    rows = [
        [str(r["name"]), f"x{r['scale']}", f"{r['parameters']:,}", "yes" if r["pretrained"] else "no"] for r in records
    ]
    print_table(["name", "scale", "parameters", "pretrained"], rows, right=["parameters"])
