"""What is measured: cases, the grids of them that the suites are, and which contenders meet in each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sparse_attn.errors import ConfigError

Pass = Literal["forward", "both", "step"]

# Every way of running one block; other registered attentions join under their own names.
BLOCKS = (
    "authors",
    "eager",
    "eager bf16",
    "eager compiled",
    "blocked",
    "blocked bf16",
    "native",
    "native bf16",
    "triton",
    "triton bf16",
    "dense naive",
    "dense sdpa",
    "nla",
)
DENSE = ("dense naive", "dense sdpa", "nla")
NETWORKS = ("network eager", "network auto", "network auto bf16")
TRAININGS = ("training eager bf16", "training auto bf16")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that several contenders compute.

    Args:
        channels: C.
        side: H = W.
        batch: B.
        rounds: R.
        bucket_size: k.
        model: a registered network, instead of one block; C, R and k are its own then.
        tiny: a toy, whose numbers mean nothing; a network of one residual block with the C, R and k given here.
        training: whole training steps of the network, instead of its forward pass.
        forward_only: a block's backward pass is not timed.
    """

    channels: int
    side: int
    batch: int = 1
    rounds: int = 4
    bucket_size: int = 144
    model: str | None = None
    tiny: bool = False
    training: bool = False
    forward_only: bool = False

    @property
    def tokens(self) -> int:
        """N."""
        return self.side**2

    @property
    def passes(self) -> tuple[Pass, ...]:
        """What is timed: of a block forward, and forward and backward together."""
        if self.model is None:
            return ("forward",) if self.forward_only else ("forward", "both")
        return ("step",) if self.training else ("forward",)

    @property
    def label(self) -> str:
        """For tables."""
        size = f"{self.side}x{self.side}" + (f", batch {self.batch}" if self.batch > 1 else "")
        toy = "toy " if self.tiny else ""
        if self.model is None:
            return f"{toy}{self.channels} ch, {size}, r={self.rounds}"
        return f"{toy}{self.model}{', training' if self.training else ''}, {size}"

    def toy(self) -> Case:
        """The same kind of case, so small that it says nothing but whether everything runs."""
        return replace(self, channels=16, side=12, batch=2, rounds=2, bucket_size=16, tiny=True)


Entry = tuple[Case, tuple[str, ...]]
"""A case and the names of its contenders."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cases that are all combinations of these.

    Args:
        channels: C.
        sizes: H = W.
        batch: B.
        rounds: R.
        bucket_size: k.
    """

    channels: tuple[int, ...] = (64,)
    sizes: tuple[int, ...] = (100,)
    batch: tuple[int, ...] = (1,)
    rounds: tuple[int, ...] = (4,)
    bucket_size: int = 144

    def cases(self) -> list[Case]:
        """In order, sizes changing fastest."""
        return [
            Case(channels=c, side=side, batch=b, rounds=r, bucket_size=self.bucket_size)
            for b, r, c, side in itertools.product(self.batch, self.rounds, self.channels, self.sizes)
        ]

    def replaced(self, **values: Any) -> Grid:
        """With those of the values that are not None.

        Raises:
            ConfigError: a number that is not positive.
        """
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
                raise ConfigError(f"bad {name}", expected="numbers of at least 1", got=value)
        return replace(self, **given)


GRIDS: Mapping[str, Grid] = {
    "size": Grid(sizes=(24, 32, 48, 64, 100, 144, 200, 288, 400)),
    "width": Grid(channels=(32, 64, 128, 256), sizes=(64,)),
    "rounds": Grid(rounds=(1, 2, 4, 8)),
    "batch": Grid(batch=(1, 2, 4, 8), sizes=(48,)),
}
SUITES = ("bars", *GRIDS, "quick")


def merged(entries: list[Entry]) -> list[Entry]:
    """Each case once, with everyone who is named for it."""
    found: dict[Case, dict[str, None]] = {}
    for case, names in entries:
        found.setdefault(case, {}).update(dict.fromkeys(names))
    return [(case, tuple(names)) for case, names in found.items()]
