"""Charts of records, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sparse_attn.benchmark import STYLE
from sparse_attn.errors import ConfigError
from sparse_attn.reproduction.arithmetic import Count
from sparse_attn.reproduction.record import Cell, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def require_matplotlib() -> None:
    """Known before hours of training rather than after.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConfigError("charts need matplotlib", remedy="pip install matplotlib") from error
    del mpl


def chart(record: Record) -> str:
    """The figure, or for a table a chart of its rows: means, standard deviations, each seed, and the paper's."""
    with _card(7.5, 4.5 if record.ablation.axis else 1.3 + 0.35 * len(record.cells)) as (axes, file):
        if record.ablation.axis is None:
            _rows(axes, record.cells)
        else:
            _lines(axes, record.cells)
            axes.set_xlabel(record.ablation.axis)
            axes.set_ylabel("PSNR, dB")
        unfinished = "" if record.complete else ", not complete"
        axes.set_title(f"{record.ablation.title}\n(scale {record.scale}{unfinished})", fontsize="medium")
    return file.getvalue()


def counts_chart(rows: Sequence[Count]) -> str:
    """GFLOP of each row: the paper's, counted, and by the accounting that meets the paper's."""
    with _card(7.5, 3.8) as (axes, file):
        columns = {
            "paper": [row.paper for row in rows],
            "counted, two neighbouring chunks": [row.flops / 1e9 for row in rows],
            "published accounting": [row.accounted / 1e9 for row in rows],
        }
        for i, (label, values) in enumerate(columns.items()):
            axes.bar([place + 0.27 * (i - 1) for place in range(len(rows))], values, width=0.25, label=label)
        axes.set_yscale("log")
        axes.set_xticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylabel("GFLOP (multiply and add counted apart)")
        axes.legend(fontsize="small", frameon=False)
    return file.getvalue()


@contextmanager
def _card(width: float, height: float) -> Iterator[tuple[Axes, io.StringIO]]:
    """Axes, and the file that holds the drawing when the block has ended."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    with mpl.rc_context(STYLE):
        # A white card: readable on a light page and on a dark one.
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        yield figure.add_subplot(), file
        figure.savefig(file, format="svg", metadata={"Date": None})


def _rows(axes: Axes, cells: Sequence[Cell]) -> None:
    for place, cell in enumerate(cells):
        axes.plot([*cell.values.values()], [place] * len(cell.values), "o", color="tab:blue", alpha=0.35, markersize=5)
        if cell.mean is not None:
            axes.errorbar(cell.mean, place, xerr=cell.sd, fmt="|", color="tab:blue", capsize=4, markersize=14)
        if cell.paper is not None:
            axes.plot(cell.paper, place, "D", color="tab:orange", markerfacecolor="none")
    axes.set_yticks(range(len(cells)), [cell.label for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlabel("PSNR, dB: each seed, mean and standard deviation" + _paper_key(cells))


def _lines(axes: Axes, cells: Sequence[Cell]) -> None:
    names = list(dict.fromkeys(cell.series for cell in cells))
    for i, name in enumerate(names):
        own = [cell for cell in cells if cell.series == name and cell.mean is not None]
        points = sorted((cell.x, cell.mean, cell.sd or 0.0) for cell in own if cell.x is not None)
        if points:
            x, mean, sd = zip(*points, strict=True)
            axes.errorbar(x, mean, yerr=sd, label=name, color=f"C{i}", marker="o", markersize=4, capsize=3)
        for cell in own:
            if cell.x is None and cell.mean is not None:
                axes.axhline(cell.mean, label=cell.label, color=f"C{i}", linestyle="--", linewidth=1)
        quoted = [(cell.x, cell.paper) for cell in cells if cell.series == name and cell.x and cell.paper]
        if quoted:
            axes.plot(*zip(*quoted, strict=True), "D", label=f"{name}, paper", color=f"C{i}", markerfacecolor="none")
    if any(cell.mean is not None for cell in cells):
        axes.legend(fontsize="small", frameon=False)


def _paper_key(cells: Sequence[Cell]) -> str:
    return "; paper: diamond" if any(cell.paper is not None for cell in cells) else ""
