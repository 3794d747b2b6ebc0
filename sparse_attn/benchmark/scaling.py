"""Medians and the scaling exponent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return statistics.median(values) if values else None


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """The p of seconds = c * sizes^p that fits best, by least squares between logarithms; None of fewer than 3 points.

    Two points would be a line through both, whatever they say.
    """
    if len(sizes) < 3:
        return None
    slope, _ = statistics.linear_regression([math.log(n) for n in sizes], [math.log(s) for s in seconds])
    return slope
