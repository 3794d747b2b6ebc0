"""A record as text: the scale above, the table, what may be said below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparse_attn.reproduction.record import Cell, Record
from sparse_attn.reproduction.verdict import RULE

NOTHING = "–"


def scale_lines(record: Record) -> list[str]:
    """At what scale the runs were: to be read before any figure."""
    recipe = record.recipe
    stages = "; ".join(
        f"{stage['steps']} steps, batch {stage['batch']}, LR patch {stage['patch']}" for stage in recipe["stages"]
    )
    plan = stages
    if record.budget is not None:
        plan = f"{record.minutes_each:.3g} minutes a run of a budget of {record.budget:g}, so steps differ ({stages})"
    seeds = f"{len(record.seeds)} seed{'s' if len(record.seeds) > 1 else ''}"
    lines = [f"scale {record.scale}: {plan}; {recipe['precision']}, {seeds}, trained on {recipe['train']}"]
    trained = [run["training"] for run in record.runs.values()]
    if trained:
        steps = _range([run["steps"] for run in trained], "{:,.0f}")
        minutes = _range([run["seconds"] / 60 for run in trained], "{:.3g}")
        lines.append(f"as run: {len(trained)} runs, {steps} steps and {minutes} minutes each, {_machines(record)}")
    if not record.complete:
        lines.append("NOT COMPLETE: the same command goes on")
    return lines


def table(record: Record) -> list[list[str]]:
    """Header and rows: a grid where every variant is tested in the same several ways, else a line a figure."""
    ablation = record.ablation
    if len(ablation.tests) > 1 and all(len(ablation.conditions(v)) == len(ablation.tests) for v in ablation.variants):
        found = {(cell.variant, cell.test): cell for cell in record.cells}
        rows = [[v.name, *(_both(found.get((v.name, t.name))) for t in ablation.tests)] for v in ablation.variants]
        return [["trained \\ tested: paper / ours, dB", *(t.name for t in ablation.tests)], *rows]
    rows = [
        [cell.label, _number(cell.paper), _number(cell.mean), _number(cell.sd), str(len(cell.values))]
        for cell in record.cells
    ]
    return [["", "paper, dB", "ours, dB", "sd", "seeds"], *rows]


def _both(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    spread = "" if cell.sd is None else f" ± {cell.sd:.3f}"
    return f"{_number(cell.paper)} / {_number(cell.mean)}{spread}"


def verdict_lines(record: Record) -> list[str]:
    """What may be said about each pair, findings first, and the rule."""
    ordered = sorted(record.verdicts, key=lambda verdict: not verdict.told_apart)
    return [*map(str, ordered), f"rule: {RULE}."] if ordered else []


def report(record: Record) -> str:
    """For a terminal."""
    ablation = record.ablation
    head = [f"{ablation.title} ({ablation.source})", *scale_lines(record), f"paper's figures: {ablation.paper_source}"]
    return "\n".join([*head, "", *aligned(table(record)), "", *verdict_lines(record), *_notes(record)])


def markdown(record: Record, *, picture: str | None = None) -> str:
    """For a page.

    Args:
        record: what was measured.
        picture: file name of its chart.
    """
    ablation = record.ablation
    parts = [f"# {ablation.title}", f"Source: {ablation.source}. Paper's figures: {ablation.paper_source}."]
    parts.append("\n".join(f"- {line}" for line in scale_lines(record)))
    parts.append(markdown_table(table(record)))
    if picture is not None:
        parts.append(f"![{ablation.title}]({picture})")
    if verdicts := verdict_lines(record):
        parts.append("\n".join(f"- {line}" for line in verdicts))
    if notes := _notes(record):
        parts.append("\n".join(f"- {line}" for line in notes))
    if record.command is not None:
        parts.append(f"```sh\n{record.command}\n```")
    return "\n\n".join(parts) + "\n"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _notes(record: Record) -> list[str]:
    return [f"note: {note}" for note in record.ablation.notes]


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _machines(record: Record) -> str:
    """On what, by which PyTorch."""
    found = set()
    for run in record.runs.values():
        trained = run["training"]
        machine = trained["machine"]
        threads = "" if machine["gpu"] else f", {trained['threads']} thread{'s' if trained['threads'] > 1 else ''}"
        found.add(f"{machine['gpu'] or machine['cpu']}{threads}, torch {trained['torch']}")
    return "on " + " and ".join(sorted(found))


def file_names(name: str, out: Path) -> dict[str, Path]:
    """Where the record, the page and the chart go."""
    return {suffix: out / f"{name}.{suffix}" for suffix in ("json", "md", "svg")}
