"""Plots of a run as SVG text: time and memory over what the suite varies, and ratios beside their bars."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.record import Record, Row
from sparse_attn.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AXES: Mapping[str, str] = {
    "side": "side of the map, pixels",
    "channels": "channels",
    "rounds": "rounds",
    "batch": "batch",
}
_MARKERS = "os^Dv<>ph*XP"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # The same numbers give the same file.
    "svg.hashsalt": "sparse_attn",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def varied(record: Record) -> str | None:
    """Which of a case's fields the run varies, if it is exactly one."""
    cases = [row.case for row in record.rows if row.case.model is None]
    names = [name for name in _AXES if len({getattr(case, name) for case in cases}) > 1]
    return names[0] if len(names) == 1 else None


def plots(record: Record) -> dict[str, str]:
    """SVG text by file name.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConfigError("plots need matplotlib", remedy="pip install matplotlib") from error
    found: dict[str, str] = {}
    stem = f"{record.setup.kind}-{record.setup.suite}"
    with mpl.rc_context(STYLE):
        axis = varied(record)
        if axis is not None:
            found[f"{stem}-forward.svg"] = _lines(record, axis, "seconds", "forward")
            found[f"{stem}-both.svg"] = _lines(record, axis, "seconds", "both")
            found[f"{stem}-memory.svg"] = _lines(record, axis, "memory", "both")
        if any(bar.met is not None and bar.at_least for bar in record.bars):
            found[f"{stem}-bars.svg"] = _bars(record)
    return found


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    # A white card: readable on a light page and on a dark one.
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _lines(record: Record, axis: str, what: Literal["seconds", "memory"], run: Literal["forward", "both"]) -> str:
    from matplotlib.ticker import LogLocator

    figure, axes = _new(7.5, 4.8)
    by_name: dict[str, list[Row]] = {}
    for row in record.rows:
        if row.case.model is None and row.median(what, run):
            by_name.setdefault(row.contender, []).append(row)
    unit = 1e3 if what == "seconds" else 2.0**-20
    for i, (name, rows) in enumerate(by_name.items()):
        points = sorted((getattr(row.case, axis), (row.median(what, run) or 0.0) * unit) for row in rows)
        axes.plot(*zip(*points, strict=True), label=name, marker=_MARKERS[i % len(_MARKERS)], markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    ticks = sorted({getattr(row.case, axis) for row in record.rows if row.case.model is None})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(_AXES[axis])
    passes = {"forward": "forward", "both": "forward + backward"}[run]
    axes.set_ylabel(f"{passes}, {'ms' if what == 'seconds' else 'MiB at the peak'}")
    axes.set_title(_title(record.rows, axis), fontsize="medium")
    if by_name:
        axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _title(rows: list[Row], axis: str) -> str:
    """What does not vary."""
    case: Case = next(row.case for row in rows if row.case.model is None)
    fixed = {"side": f"{case.side}x{case.side}", "channels": f"{case.channels} channels"}
    fixed |= {"rounds": f"r={case.rounds}", "batch": f"batch {case.batch}"}
    return ", ".join(text for name, text in fixed.items() if name != axis)


def _bars(record: Record) -> str:
    """Each ratio as a part of what is wanted; beyond the line it is met."""
    shown = [bar for bar in record.bars if bar.met is not None and bar.at_least]
    figure, axes = _new(10.0, 0.9 + 0.3 * len(shown))
    shares = [(bar.value or 0.0) / bar.wanted for bar in shown]
    colours = ["tab:green" if bar.met else "tab:red" for bar in shown]
    drawn = axes.barh(range(len(shown)), shares, color=colours, height=0.7)
    axes.bar_label(drawn, [f"{bar.value:.2g}x of {bar.wanted:.2g}x" for bar in shown], padding=3, fontsize="small")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{bar.where}: {bar.what}" for bar in shown], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(1.0, *shares))
    axes.set_xlabel("measured ratio over the bar")
    return _svg(figure)
