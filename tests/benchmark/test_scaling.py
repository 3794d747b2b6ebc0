"""The exponent is the slope between logarithms."""

from __future__ import annotations

import pytest

from sparse_attn.benchmark.scaling import exponent, median


def test_exponent_of_a_power_law_and_of_noise_around_it() -> None:
    sizes = [576.0, 2304.0, 10000.0, 40000.0, 160000.0]
    assert exponent(sizes, [3e-7 * n**1.07 for n in sizes]) == pytest.approx(1.07)
    wobble = (1.05, 0.95, 1.0, 0.95, 1.05)
    assert exponent(sizes, [w * n**2 for w, n in zip(wobble, sizes, strict=True)]) == pytest.approx(2.0, abs=0.02)


def test_two_points_have_no_exponent() -> None:
    assert exponent([100.0, 200.0], [1.0, 2.0]) is None


def test_median() -> None:
    assert median([3.0, 1.0, 9.0]) == 3.0 and median([]) is None
