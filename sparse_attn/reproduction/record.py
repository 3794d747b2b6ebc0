"""What was measured, run by run, and what follows: JSON-able."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from sparse_attn.reproduction.plan import Ablation, Condition, Variant
from sparse_attn.reproduction.verdict import RULE, Sample, Verdict, compare


@dataclass(frozen=True, kw_only=True)
class Cell(Sample):
    """One figure of a table.

    Args:
        variant: what was trained.
        test: how it was tested.
        series: the line of a figure it belongs to.
        x: its place there.
        paper: the paper's figure, dB, or None.
        runs: the folders of its runs, by seed.
    """

    variant: str
    test: str
    series: str
    x: float | None
    paper: float | None
    runs: dict[int, str]


@dataclass(kw_only=True)
class Record:
    """All of one table or figure.

    Args:
        ablation: what it is.
        scale: the name of the scale of effort, or the recipe's file name.
        recipe: of that scale, as plain values.
        seeds: what the runs were seeded with.
        budget: minutes for all runs together, or None.
        minutes_each: of each run, or None.
        cells: the figures.
        runs: of every finished run by its folder: what the trainer recorded, and what was measured.
        command: that made it.
        date: when, UTC.
    """

    ablation: Ablation
    scale: str
    recipe: dict[str, Any]
    seeds: list[int]
    budget: float | None
    minutes_each: float | None
    cells: list[Cell] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    command: str | None = None
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def complete(self) -> bool:
        """Whether every figure has every seed."""
        return all(set(cell.values) == set(self.seeds) for cell in self.cells)

    @property
    def verdicts(self) -> list[Verdict]:
        """Of the pairs that a reader would compare and that were measured."""
        found = [compare(one, other) for one, other in pairs(self.cells, lined=self.ablation.axis is not None)]
        return [verdict for verdict in found if verdict is not None]

    def to_json(self) -> str:
        """Everything, as text."""
        values = {**asdict(self), "complete": self.complete}
        values["cells"] = [{**asdict(cell), "mean": cell.mean, "sd": cell.sd} for cell in self.cells]
        values["verdicts"] = [{**asdict(verdict), "text": str(verdict)} for verdict in self.verdicts]
        return json.dumps({**values, "rule": RULE}, indent=1, allow_nan=False) + "\n"


def make_cell(
    ablation: Ablation, variant: Variant, condition: Condition, values: dict[int, float], runs: dict[int, str]
) -> Cell:
    """A cell with its place in the table or figure."""
    alone = len(ablation.conditions(variant)) == 1
    return Cell(
        label=variant.name if alone else f"{variant.name}, tested with {condition.name}",
        values=values,
        variant=variant.name,
        test=condition.name,
        series=variant.series or variant.name,
        x=variant.x if condition.x is None else condition.x,
        paper=variant.paper.get(condition.name),
        runs=runs,
    )


def pairs(cells: Sequence[Cell], *, lined: bool) -> list[tuple[Cell, Cell]]:
    """What a reader compares: in a table, all; in a figure, neighbours on a line, and lines at the same x.

    A point of a figure without an x is compared with all others.
    """
    if not lined:
        return list(combinations(cells, 2))
    found = []
    for one, other in combinations(cells, 2):
        if one.x is None or other.x is None:
            near = True
        elif one.series == other.series:
            low, high = sorted((one.x, other.x))
            near = not any(cell.series == one.series and cell.x is not None and low < cell.x < high for cell in cells)
        else:
            near = one.x == other.x
        if near:
            found.append((one, other))
    return found
