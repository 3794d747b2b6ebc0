"""The figure for papers, in the manner of the paper's Figure 1: who is attended to, sparse beside dense."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparse_attn.errors import ConfigError
from sparse_attn.viewer.palette import BUCKETS, DIMMED, HEAT, REST, bucket_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sparse_attn.viewer.view import View

# Inches: the width of a column of a two-column paper.
_COLUMN = 3.4
# Letters that fit into it: of a heading, and of a name, which may be all wide ones.
_LETTERS, _NAME = 58, 46
_STYLE: dict[Any, Any] = {"font.family": "sans-serif", "font.size": 7, "axes.titlesize": 7}


def figure(view: View) -> bytes:
    """A PNG of one column's width at 300 dots an inch.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need matplotlib", remedy="pip install matplotlib") from error
    name = view.attention.partition(" ")[0]
    attended = view.attended
    high, wide = view.picture.shape[:2]
    with mpl.rc_context(_STYLE):
        # A white card: readable on a light page and on a dark one.
        title = _title(view.layer or name, view.kept)
        inches = 0.95 + 0.12 * title.count("\n") + 0.93 * _COLUMN * high / wide
        drawn = Figure(figsize=(_COLUMN, inches), facecolor="white", layout="compressed")
        drawn.suptitle(title, fontsize=7.5)
        panels = drawn.subplots(2, 2).flat
        grey = view.picture if view.picture.ndim == 2 else view.picture.mean(axis=2)
        for axes in panels:
            axes.set_axis_off()
        panels[0].set_title(f"pixel {view.at[0]}, {view.at[1]}")
        _photo(panels[0], view.picture)
        _buckets(panels[1], view)
        weights = view.probe.weights(view.query)[0, 0]
        _weights(panels[2], grey, weights, view.probe.size, f"{name}: {_pixels(int(attended.sum()))}")
        dense = view.probe.dense_weights(view.query)[0, 0]
        _weights(panels[3], grey, dense, view.probe.size, f"dense attention: {_pixels(len(dense))}")
        for axes in panels:
            _mark(axes, view)
        file = io.BytesIO()
        drawn.savefig(file, format="png", dpi=300)
    return file.getvalue()


def _title(layer: str, kept: float) -> str:
    """One line, or two for a long name, of which the end says more than the beginning."""
    verdict = f"{100 * kept:.3g} % of dense attention's mass is kept"
    if len(layer) > _NAME:
        layer = f"…{layer[1 - _NAME :]}"
    return f"{layer}:{' ' if len(layer) + len(verdict) < _LETTERS else chr(10)}{verdict}"


def _pixels(count: int) -> str:
    return f"{count:,} pixel{'' if count == 1 else 's'}"


def _photo(axes: Axes, pixels: NDArray[Any]) -> None:
    # Each pixel of the map is a square of its own, so nothing is smoothed; the axes count in picture pixels.
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=_extent(pixels))


def _extent(pixels: NDArray[Any]) -> tuple[float, float, float, float]:
    high, wide = pixels.shape[:2]
    return 0.0, float(wide), float(high), 0.0


def _weights(axes: Axes, grey: NDArray[Any], weights: Tensor, size: tuple[int, int], title: str) -> None:
    """Weights over the darkened picture, on a logarithmic scale of a factor of 10 to 1000."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.ticker import NullLocator

    shares = weights.double().numpy().reshape(size)
    high, low = shares.max(), shares[shares > 0].min()
    bottom = high / np.clip(high / low, 10, 1000)
    cmap = LinearSegmentedColormap.from_list("heat", [tuple(v / 255 for v in colour) for colour in HEAT])
    _photo(axes, DIMMED * grey)
    shown = np.ma.masked_equal(shares, 0).clip(bottom, high)
    image = axes.imshow(shown, cmap=cmap, norm=LogNorm(bottom, high), interpolation="nearest", extent=_extent(grey))
    axes.set_title(title)
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=25, pad=0.03)
    below = "≤ " if low < bottom * 0.999 else ""
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.set_ticks([bottom, high], labels=[f"{below}{_short(bottom)}", f"weight {_short(high)}"], fontsize=6)
    least, most = bar.ax.get_xticklabels()
    least.set_horizontalalignment("left")
    most.set_horizontalalignment("right")
    bar.outline.set_linewidth(0.4)


def _short(weight: float) -> str:
    if weight >= 1e-3:
        return f"{weight:.2g}"
    digits, _, power = f"{weight:.1e}".partition("e")
    return rf"${digits}\cdot10^{{{int(power)}}}$"


def _buckets(axes: Axes, view: View) -> None:
    """The first round: the pixel's own chunk white, the others it attends to bright, the rest dark."""
    found = view.probe
    chunks, (x, y) = found.chunks(), view.place
    met = (found.counts(view.query)[0, 0, 0] > 0).numpy().reshape(found.size)
    if chunks is None:
        axes.set_title("attended pixels")
        axes.imshow(met, cmap="gray", interpolation="nearest", extent=_extent(view.picture))
        return
    own = chunks[0, 0].numpy()
    if own.min() == own.max():
        axes.set_title("a single bucket")
        axes.imshow(np.full(found.size, 0.85), cmap="gray", vmin=0, vmax=1, extent=_extent(view.picture))
        return
    region = found.regions[0]
    coded = len(found.regions) == 1 and region.codes is not None and len(region.codes) == 1
    codes = region.codes[0, 0].numpy().reshape(found.size) if coded and region.codes is not None else own
    colours = np.array(bucket_colours())[codes % BUCKETS]
    colours = np.where(met[..., None], colours, REST * colours)
    colours = np.where((own == own[y, x])[..., None], 255, colours).astype(np.uint8)
    axes.set_title("buckets of round 1" if found.rounds > 1 else "buckets")
    axes.imshow(colours, interpolation="nearest", extent=_extent(view.picture))


def _mark(axes: Axes, view: View) -> None:
    """A ring around the pixel, white on black."""
    (high, wide), (height, width), (x, y) = view.picture.shape[:2], view.probe.size, view.place
    centre = ((x + 0.5) * wide / width, (y + 0.5) * high / height)
    for colour, line in (("black", 1.8), ("white", 0.8)):
        axes.plot(*centre, marker="o", markersize=6, fillstyle="none", color=colour, markeredgewidth=line)
