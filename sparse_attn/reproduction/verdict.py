"""What may be said about two means: a difference smaller than the seeds' spread is no finding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

RULE = (
    "A is called above B only where the difference of their means exceeds sqrt(sd_A^2 + sd_B^2), sd being the sample "
    "standard deviation over the seeds"
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One quantity measured over seeds.

    Args:
        label: for people.
        values: dB by seed.
    """

    label: str
    values: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """Over the seeds; None without any."""
        return fmean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        """Over the seeds; None with fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows about two samples.

    Args:
        above: the label of the one with the larger mean.
        below: of the other.
        difference: of the means, dB, at least 0.
        spread: the combined standard deviation; None with one seed.
        told_apart: whether the difference exceeds it; None with one seed.
    """

    above: str
    below: str
    difference: float
    spread: float | None
    told_apart: bool | None

    def __str__(self) -> str:
        """One line."""
        if self.spread is None:
            return f"{self.above} and {self.below}: {self.difference:.3f} dB apart; one seed, so no spread is known"
        if self.told_apart:
            return f"{self.above} above {self.below} by {self.difference:.3f} dB (combined sd {self.spread:.3f})"
        return (
            f"{self.above} and {self.below}: not told apart ({self.difference:.3f} dB, combined sd {self.spread:.3f})"
        )


def compare(one: Sample, other: Sample) -> Verdict | None:
    """What may be said; None unless both were measured with the same seeds."""
    first, second = one.mean, other.mean
    if first is None or second is None or set(one.values) != set(other.values):
        return None
    above, below = (one, other) if first >= second else (other, one)
    difference = abs(first - second)
    spread = None if one.sd is None or other.sd is None else math.hypot(one.sd, other.sd)
    return Verdict(
        above=above.label,
        below=below.label,
        difference=difference,
        spread=spread,
        told_apart=None if spread is None else difference > spread,
    )
