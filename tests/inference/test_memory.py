"""Live tensors are counted right, peaks are predicted right, and limits are found where systems keep them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.inference.memory import LiveBytes, PeakModel, _container, free_memory


def test_live_bytes_counts_what_is_alive_together() -> None:
    x = torch.ones(1000)
    with torch.no_grad(), LiveBytes() as live:
        a = x + 1
        b = a * 2
        del a
        c = b.view(10, 100).t()
        assert live.live == 4000
        d = c.contiguous()
        assert live.live == 8000 and live.peak == 8000
        del b, c, d
    assert live.live == 0


def test_live_bytes_ignores_views_of_what_was_there_and_writes_in_place() -> None:
    x = torch.ones(1000)
    with torch.no_grad(), LiveBytes() as live:
        y = x.view(10, 100)
        y.add_(1)
    assert live.peak == 0


def test_live_bytes_sees_into_composite_operators() -> None:
    x = torch.ones(1, 2, 7, 11)
    with torch.no_grad(), LiveBytes() as live:
        F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), torch.ones(5, 2, 3, 3))
    padded, out, kernel = 2 * 9 * 13, 5 * 7 * 11, 5 * 2 * 3 * 3
    assert live.peak == 4 * (padded + out + kernel)


@pytest.mark.parametrize("quadratic", [False, True])
def test_the_fitted_peak_predicts_a_larger_picture(quadratic: bool) -> None:
    conv = nn.Conv2d(3, 7, 3, padding=1)

    def forward(side: int) -> Tensor:
        x = conv(torch.ones(1, 3, side, side)).flatten(2)
        return (x.mT @ x).softmax(-1) if quadratic else x.relu()

    peak = PeakModel.fit(forward)
    assert (peak.square > 0) is quadratic
    with torch.no_grad(), LiveBytes() as live:
        forward(61)
    assert 1.4 * live.peak < peak.peak(61**2) < 1.7 * live.peak


@pytest.mark.parametrize("peak", [PeakModel(linear=3.5, square=0.0), PeakModel(linear=3.5, square=0.25)])
@pytest.mark.parametrize("limit", [1.0, 101.0, 1e9])
def test_pixels_inverts_peak(peak: PeakModel, limit: float) -> None:
    pixels = peak.pixels(limit)
    assert peak.peak(pixels) <= limit * (1 + 1e-9) < peak.peak(pixels + 2)


def test_free_memory_is_positive() -> None:
    assert free_memory(torch.device("cpu")) > 0


def test_a_container_leaves_its_limit_less_what_processes_hold(tmp_path: Path) -> None:
    assert _container(tmp_path) is None
    (tmp_path / "memory.stat").write_text("anon 300\nfile 500\nanon_thp 7\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _container(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert _container(tmp_path) is None
