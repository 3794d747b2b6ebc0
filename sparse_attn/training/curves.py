"""Curves of one or several runs as SVG or PNG: loss, validation PSNR and learning rate over the steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_attn.benchmark import STYLE
from sparse_attn.errors import ConfigError, DataError
from sparse_attn.training.journal import LOG, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Log = Sequence[Mapping[str, Any]]

_PANELS = {"loss": "loss (mean absolute error)", "val_psnr": "validation PSNR, dB", "lr": "learning rate"}


def read_run(folder: Path) -> Log:
    """The log of a run.

    Raises:
        DataError: the folder holds none, or an empty one.
    """
    if not (folder / LOG).is_file():
        raise DataError(f"no run in {folder}", expected=f"a folder with {LOG}, as training writes", got=str(folder))
    log = [line for line in read_log(folder) if set(line) & set(_PANELS)]
    if not log:
        raise DataError(f"nothing to draw in {folder / LOG}", remedy="let the run take some steps first")
    return log


def points(log: Log, what: str) -> tuple[list[int], list[float]]:
    """Steps of all stages together, and the values of `what` there.

    Logs of an older form count the steps of each stage from zero: a stage's steps then follow those of the stage
    before.
    """
    steps, values = [], []
    start, last, stage = 0, 0, log[0]["stage"]
    for line in log:
        if line["stage"] != stage:
            start, stage = last, line["stage"]
        step = last = line.get("total_step", start + line["step"])
        if what in line:
            steps.append(step)
            values.append(float(line[what]))
    return steps, values


def boundaries(log: Log) -> list[int]:
    """The last step of each stage but the last."""
    steps, _ = points([{**line, "all": 0} for line in log], "all")
    return [steps[i - 1] for i in range(1, len(log)) if log[i]["stage"] != log[i - 1]["stage"]]


def curves(runs: Mapping[str, Log], *, kind: str = "svg") -> bytes:
    """Draws loss, validation PSNR (where something was validated) and learning rate, one above the other.

    Validations of different numbers of images are not comparable, so each number has a line of its own: the usual one
    of a run is joined, the others are single marks.

    Args:
        runs: logs by the name to show.
        kind: `svg` or `png`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib", remedy="pip install matplotlib") from error
    shown = [name for name in _PANELS if any(points(log, name)[0] for log in runs.values())]
    with mpl.rc_context(STYLE):
        # A white card: readable on a light page and on a dark one.
        figure = Figure(figsize=(7.5, 2.4 * len(shown) + 0.5), facecolor="white", layout="constrained")
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, what in zip(panels, shown, strict=True):
            for i, (name, log) in enumerate(runs.items()):
                _draw(axes, log, what, name, f"C{i % 10}")
            axes.set_ylabel(_PANELS[what], fontsize="small")
            if what == "loss":
                axes.set_yscale("log")
        panels[0].legend(fontsize="small", frameon=False)
        panels[-1].set_xlabel("steps")
        file = io.BytesIO()
        metadata: Any = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return file.getvalue()


def _draw(axes: Axes, log: Log, what: str, name: str, colour: str) -> None:
    if what == "val_psnr":
        counts = [line["val_images"] for line in log if what in line]
        usual = max(set(counts), key=counts.count) if counts else 0
        for count in sorted(set(counts)):
            steps, values = points(_looks(log, count), what)
            style: dict[str, Any] = {"marker": "o", "markersize": 3, "linestyle": "-" if count == usual else ""}
            axes.plot(steps, values, color=colour, label=name if count == usual else None, **style)
            axes.annotate(f"{count} images", (steps[-1], values[-1]), fontsize="x-small", color=colour)
    else:
        axes.plot(*points(log, what), color=colour, label=name, linewidth=1)
    for step in boundaries(log):
        axes.axvline(step, color=colour, linewidth=0.8, linestyle=":", alpha=0.6)


def _looks(log: Log, count: int) -> list[dict[str, Any]]:
    """The log with the validations of `count` images only; other lines keep the count of steps right."""
    return [
        {key: value for key, value in line.items() if key != "val_psnr" or line["val_images"] == count} for line in log
    ]
