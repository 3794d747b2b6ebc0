"""No difference below the spread is called one."""

from __future__ import annotations

import math

import pytest

from sparse_attn.reproduction.verdict import Sample, compare


def sample(label: str, *values: float) -> Sample:
    return Sample(label=label, values=dict(enumerate(values)))


def test_a_difference_beyond_the_spread_is_a_finding_whichever_comes_first() -> None:
    low, high = sample("low", 30.00, 30.02, 30.04), sample("high", 30.10, 30.12, 30.14)
    for verdict in (compare(low, high), compare(high, low)):
        assert verdict is not None
        assert (verdict.above, verdict.below, verdict.told_apart) == ("high", "low", True)
        assert verdict.difference == pytest.approx(0.10)
        assert verdict.spread == pytest.approx(0.02 * math.sqrt(2))
        assert str(verdict) == "high above low by 0.100 dB (combined sd 0.028)"


def test_a_difference_within_it_is_none() -> None:
    verdict = compare(sample("A", 30.00, 30.02, 30.04), sample("B", 30.02, 30.04, 30.06))
    assert verdict is not None
    assert verdict.told_apart is False
    assert str(verdict) == "B and A: not told apart (0.020 dB, combined sd 0.028)"
    assert "above" not in str(verdict)


def test_the_spread_itself_is_not_enough() -> None:
    verdict = compare(sample("A", 0.0, 2.0), sample("B", 2.0, 4.0))
    assert verdict is not None
    assert verdict.spread == pytest.approx(verdict.difference)
    assert verdict.told_apart is False


def test_equal_values_are_not_told_apart() -> None:
    verdict = compare(sample("A", 30.0, 30.0), sample("B", 30.0, 30.0))
    assert verdict is not None
    assert (verdict.difference, verdict.spread, verdict.told_apart) == (0.0, 0.0, False)


def test_with_one_seed_no_spread_is_known() -> None:
    verdict = compare(sample("A", 30.0), sample("B", 31.0))
    assert verdict is not None
    assert verdict.told_apart is None
    assert str(verdict) == "B and A: 1.000 dB apart; one seed, so no spread is known"


def test_nothing_is_said_of_other_seeds_or_of_none() -> None:
    assert compare(sample("A", 30.0, 30.1), sample("B", 30.0)) is None
    assert compare(sample("A"), sample("B")) is None
