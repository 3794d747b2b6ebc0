"""The figure: its size, and that what it shows is what was measured."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sparse_attn.attention import list_attention
from sparse_attn.errors import ConfigError
from sparse_attn.viewer import View
from sparse_attn.viewer.figure import figure
from tests.viewer.support import view_of


def pixels_of(view: View) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(figure(view))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", list_attention())
def test_a_column_at_300_dots_an_inch(name: str) -> None:
    drawn = pixels_of(view_of(name))
    assert drawn.shape[1] == 1020
    assert 700 < drawn.shape[0] < 1300
    assert (drawn[:, 0] == 255).all() and (drawn[:, -1] == 255).all(), "something is cut off"


@pytest.mark.parametrize("layer", ["layer2.1.attention_after", f"model.{'backbone.' * 12}attention_after"])
def test_a_long_name_is_not_cut_off(layer: str) -> None:
    drawn = pixels_of(replace(view_of("nlsa"), layer=layer))
    assert (drawn[:, 0] == 255).all() and (drawn[:, -1] == 255).all()


def test_colours_are_of_attended_pixels_only() -> None:
    view = view_of("nlsa", size=(23, 29), bucket_size=64, rounds=1)
    drawn = pixels_of(view).astype(int)
    # The weights are the lower left panel: grey but for the attended pixels.
    quarter = drawn[drawn.shape[0] // 2 : int(0.87 * drawn.shape[0]), : drawn.shape[1] // 2]
    coloured = (quarter.max(axis=2) - quarter.min(axis=2) > 20).sum()
    card = (quarter.min(axis=2) > 250).sum()
    share = coloured / (quarter.shape[0] * quarter.shape[1] - card)
    assert share == pytest.approx(float(view.attended.float().mean()), abs=0.03)


def test_what_changes_changes_the_figure() -> None:
    view = view_of("nlsa")
    drawn = figure(view)
    assert figure(view) == drawn
    assert figure(replace(view, at=(2, 9))) != drawn
    grey = replace(view, picture=np.full((22, 26), 90, np.uint8))
    assert figure(grey) != drawn


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="figures need matplotlib"):
        figure(view_of("nlsa"))
