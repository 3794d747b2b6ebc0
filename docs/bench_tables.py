"""Tables of what `sparse-attn bench` measured, from `benchmarks/results/*.json`, for the documentation.

Usage: python docs/bench_tables.py

Prints them. Plots are shown where `docs/assets/benchmarks/` has the SVG files that the same run wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparse_attn.benchmark import Record
from sparse_attn.benchmark.table import (
    LARGEST_EXPONENT,
    by_case,
    exponent_cells,
    machine_line,
    notes,
    timed_columns,
    verdict_cells,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "docs" / "assets" / "benchmarks"
NOTHING_YET = (
    "This copy of the documentation was built without measurements. To make them:\n\n```sh\n"
    "mkdir -p benchmarks/results docs/assets/benchmarks\n"
    "sparse-attn bench --suite bars --json benchmarks/results/cpu-bars.json --plots docs/assets/benchmarks\n"
    "sparse-attn bench --suite size --json benchmarks/results/cpu-size.json --plots docs/assets/benchmarks\n```"
)
_TITLES = {
    "bars": "Beside the bars",
    "size": "Over the size of the map",
    "width": "Over the width",
    "rounds": "Over the rounds",
    "batch": "Over the batch",
}
_CAPTIONS = {
    "forward": "Forward pass",
    "both": "Forward and backward pass",
    "memory": "Memory that a forward and backward pass adds at its peak",
    "bars": "Each ratio as a part of its bar",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose first columns are to the left, the others to the right."""
    rule = ["---" if i < left else "--:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def section(record: Record, stem: str, plots: Path) -> str:
    """One run: its machine, its plots, its bars, and a table for each case."""
    setup = record.setup
    title = f"## {_TITLES.get(setup.suite, setup.suite)}, {setup.kind.upper()}"
    # A record beside the one of its suite says in its name what it is.
    special = stem.removeprefix(f"{setup.kind}-{setup.suite}").strip("-")
    parts = [f"{title}, {special}" if special and special != stem else title, f"{machine_line(record)}."]
    if record.command:
        parts.append(f"```sh\n{record.command}\n```")
    for kind, caption in _CAPTIONS.items():
        name = f"{stem}-{kind}.svg"
        if (plots / name).is_file():
            parts.append(f"![{caption}](assets/benchmarks/{name})")
    if record.bars:
        parts.append(table(["case", "bar", "wanted", "measured", ""], [*map(verdict_cells, record.bars)], left=2))
    if fits := exponent_cells(record):
        parts.append(f"Time grows with $N^p$; linear is $p \\le {LARGEST_EXPONENT}$:")
        parts.append(table(["contender", "pass", "p", ""], fits, left=2))
    for case, rows in by_case(record.rows).items():
        header, lines = timed_columns(rows)
        parts.append(f"### {case.label} {{ #{stem}-{_anchor(case.label)} }}")
        if lines:
            parts.append(table(header, [[f"`{line[0]}`", *line[1:]] for line in lines]))
        if said := notes(rows):
            parts.append("\n".join(f"- {note}" for note in said))
    return "\n\n".join(parts)


def _anchor(label: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in label)


def bench_section(results: Path = RESULTS, plots: Path = PLOTS) -> str:
    """All runs, in order of their files' names."""
    found = sorted(results.glob("*.json")) if results.is_dir() else []
    sections = [section(Record.from_json(file.read_text(encoding="utf-8")), file.stem, plots) for file in found]
    return "\n\n".join(sections) or NOTHING_YET


if __name__ == "__main__":
    print(bench_section())
