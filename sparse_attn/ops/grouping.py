"""Who may attend to whom (Eq. 6): the one thing in which the attentions differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparse_attn.errors import ConfigError

Boundary = Literal["mask", "repeat"]


@dataclass(frozen=True)
class Buckets:
    """Tokens put in some order, cut into chunks of k, each chunk attending to itself and its neighbours in a circle.

    Args:
        order: (B or 1, R, N) int64, each row a permutation of the tokens; None is the order of place, one round.
        bucket_size: k.
        neighbors: 2 attends to the previous and the next chunk too, 1 to the previous, 0 to the own chunk only.
        boundary: what happens when k does not divide N, or a circle is so small that neighbours coincide. `mask`
            pads the last chunk with tokens nobody attends to and counts each chunk once. `repeat` repeats the last
            tokens of the order and counts a neighbour as often as it is met, as the NLSN authors' code does.
    """

    order: Tensor | None
    bucket_size: int
    neighbors: int = 0
    boundary: Boundary = "mask"

    def chunks(self, tokens: int) -> int:
        """J = ceil(N / k)."""
        return -(-tokens // self.bucket_size)

    def offsets(self, tokens: int) -> list[int]:
        """Which chunks chunk j attends to, as offsets from j, in a circle of J chunks."""
        met = [0, -1, 1][: self.neighbors + 1]
        if self.boundary == "repeat":
            return met
        count = self.chunks(tokens)
        return list({offset % count: offset for offset in reversed(met)}.values())[::-1]

    def is_dense(self, tokens: int) -> bool:
        """Whether every token attends to every token exactly once, so that all rounds are dense attention.

        With `repeat` this takes one chunk: all keys then count alike. That includes N < k, where the authors' code
        fails.
        """
        count = self.chunks(tokens)
        return count == 1 or (self.boundary == "mask" and len(self.offsets(tokens)) == count)


@dataclass(frozen=True)
class KeyLists:
    """For every query its own list of keys.

    Args:
        index: (B, N, k) int64, distinct within a row.
    """

    index: Tensor


Groups = Buckets | KeyLists


def check_neighbors(neighbors: int) -> int:
    """Returns `neighbors`.

    Raises:
        ConfigError: it is not 0, 1 or 2.
    """
    if isinstance(neighbors, bool) or not isinstance(neighbors, int) or neighbors not in (0, 1, 2):
        raise ConfigError(
            "bad neighbors", expected="0 (own chunk), 1 (and previous) or 2 (and next)", got=repr(neighbors)
        )
    return neighbors
