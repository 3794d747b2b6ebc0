"""The pages and tables that are made from the code, so that they cannot fall behind it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

import sparse_attn
from sparse_attn import errors
from sparse_attn.attention import Attention2d, CheckReport, Health, LayerCheck, Probe, attentions
from sparse_attn.cli import app
from sparse_attn.evaluation import EvaluationResult
from sparse_attn.exporting import ExportReport, export
from sparse_attn.summary import Summary
from sparse_attn.surgery import ConversionReport, Insertion, Swap
from sparse_attn.training.config import Recipe, Stage
from sparse_attn.viewer import View
from sparse_attn.viewer import inspect as inspect_attention

# What the public functions return and raise.
COMPANIONS = (
    EvaluationResult,
    Summary,
    Insertion,
    Swap,
    ConversionReport,
    CheckReport,
    LayerCheck,
    Probe,
    Health,
    inspect_attention,
    View,
    export,
    ExportReport,
    errors.ConfigError,
    errors.UnknownNameError,
    errors.WeightsError,
    errors.ImageError,
    errors.DataError,
    errors.BuildError,
)
ARGUMENT = re.compile(r"^ {4}(\w+): (.+)$", re.MULTILINE)

# In the order of the page; a room that is not here gets its own name as a heading.
HEADINGS = {
    "imaging": "Photos",
    "factory": "Models",
    "backbones": "Models",
    "weights": "Models",
    "summary": "Models",
    "inference": "Enlarging and measuring",
    "evaluation": "Enlarging and measuring",
    "attention": "Attention",
    "ops": "Attention",
    "surgery": "Attention in any network",
    "errors": "Errors",
}


def first_line(thing: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def attention_table() -> str:
    """A row for each registered attention: its name, and what it is."""
    rows = (
        f"| [`{name}`](reference/attentions.md#{name}) | {first_line(attentions.get(name))} |" for name in attentions
    )
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def recipe_table() -> str:
    """The fields of a recipe and of its stages, with their defaults."""
    tables = []
    for title, cls in {"Field of a recipe": Recipe, "Field of a stage": Stage}.items():
        described = dict(ARGUMENT.findall(re.sub(r"\n {8}", " ", inspect.getdoc(cls) or "")))
        rows = [f"| `{f.name}` | {_default(f)} | {described[f.name]} |" for f in dataclasses.fields(cls)]
        tables.append("\n".join([f"| {title} | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(tables)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return "required"
    return "none" if field.default is None else f"`{json.dumps(field.default)}`"


def _directive(thing: Any, **options: object) -> str:
    lines = [f"::: {thing.__module__}.{thing.__qualname__}"]
    if options:
        lines.append("    options:")
        lines += [f"      {name}: {json.dumps(value)}" for name, value in options.items()]
    return "\n".join(lines)


def attentions_page() -> str:
    """The base class, then a section for each registered attention."""
    parts = [
        "# Attentions",
        "All share the four rooms of their base, `Attention2d`, and differ in `group` only. "
        "Create one by its name: `sparse_attn.create_attention(name, channels, **settings)`.",
        _directive(Attention2d, heading_level=2, members=["configure", "embed_tokens", "group", "forward"]),
    ]
    for name in attentions:
        parts += [
            f"## {name} {{ #{name} }}",
            _directive(attentions.get(name), members=False, show_root_toc_entry=False),
        ]
    return "\n\n".join(parts) + "\n"


def python_page() -> str:
    """Every other public name of the package and its companions, under a heading for the room it lives in."""
    own_page = {Attention2d, *(attentions.get(name) for name in attentions)}
    public = [getattr(sparse_attn, name) for name in sparse_attn.__all__ if not name.startswith("__")]
    sections: dict[str, list[str]] = {heading: [] for heading in HEADINGS.values()}
    for thing in [*public, *COMPANIONS]:
        if thing not in own_page:
            room = thing.__module__.split(".")[1]
            heading = HEADINGS.get(room, room.replace("_", " ").capitalize())
            brief = {"show_source": False, "show_signature": False} if thing in COMPANIONS and room == "errors" else {}
            sections.setdefault(heading, []).append(_directive(thing, **brief))
    parts = [
        "# Python",
        "Functions and classes are imported from `sparse_attn` itself, errors from `sparse_attn.errors`, and what is "
        "under *Viewer* and *Exporting* from `sparse_attn.viewer` and `sparse_attn.exporting`; "
        "attentions have [their own page](attentions.md).",
    ]
    for heading, blocks in sections.items():
        parts += [f"## {heading}", *blocks]
    return "\n\n".join(parts) + "\n"


def _commands(group: Any) -> list[list[str]]:
    """The words of the command and of each sub-command, however deep."""
    found: list[list[str]] = [[]]
    for name, command in getattr(group, "commands", {}).items():
        found += [[name, *words] for words in _commands(command)]
    return found


def command_page() -> str:
    """The help of the command and of each sub-command."""
    runner = CliRunner(env={"COLUMNS": "100"})
    group = get_command(app)
    parts = ["# Command line"]
    for words in _commands(group):
        shown = runner.invoke(app, [*words, "--help"], prog_name="sparse-attn", catch_exceptions=False)
        title = " ".join(["sparse-attn", *words])
        parts.append(f"## {title}\n\n```text\n{shown.output.strip()}\n```")
    return "\n\n".join(parts) + "\n"
