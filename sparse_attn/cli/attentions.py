"""`sparse-attn attentions`."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any

import typer

from sparse_attn.attention import attentions
from sparse_attn.cli.output import print_table
from sparse_attn.errors import unknown_name


def command(
    pattern: Annotated[str, typer.Argument(help="A shell wildcard, in quotes: 'nl*'.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the attentions.

    What each is, and its settings with their defaults.
    """
    names = attentions.names(pattern)
    if not names:
        raise unknown_name("attention", pattern, attentions)
    records = [describe(name) for name in names]
    if as_json:
        typer.echo(json.dumps(records, indent=2, default=repr))
        return
    everywhere = set.intersection(*(set(describe(name)["settings"].items()) for name in attentions))
    common = dict(item for item in records[0]["settings"].items() if item in everywhere)
    rows = []
    for record in records:
        own = {key: value for key, value in record["settings"].items() if key not in common}
        rows += [[record["name"], record["description"]], ["", settings_text(own)]]
    rows.append(["(each)", settings_text(common)])
    print_table(["attention", "what it is; its settings"], rows)


def describe(name: str) -> dict[str, Any]:
    """Name, first line of the docstring, and settings with their defaults."""
    cls = attentions.get(name)
    parameters = inspect.signature(cls).parameters.values()
    return {
        "name": name,
        "description": (inspect.getdoc(cls) or "").split("\n")[0],
        "settings": {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty},
    }


def settings_text(settings: dict[str, Any]) -> str:
    """One line."""
    return "  ".join(f"{key}={value}" for key, value in settings.items()) or "(no settings of its own)"
