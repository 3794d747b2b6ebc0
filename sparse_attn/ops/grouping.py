"""Who may attend to whom (Eq. 6): the one thing in which the attentions differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from sparse_attn.errors import ConfigError

Boundary = Literal["mask", "repeat"]
OFFSETS = (0, -1, 1)
"""Chunks that a chunk attends to, as offsets from it: the first `neighbors` + 1 of these."""


# Until then Dynamo takes `is_exporting()` for true in whatever it traces.
_DYNAMO_TELLS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 12)


def is_exporting() -> bool:
    """Whether a graph is being exported, and not compiled by `torch.compile`."""
    return torch.compiler.is_exporting() and (_DYNAMO_TELLS or not torch.compiler.is_dynamo_compiling())


def is_symbolic(size: int) -> bool:
    """Whether a graph is being exported for every value of `size`: then no branch may depend on it."""
    return is_exporting() and isinstance(size, torch.SymInt)


def at_least(least: int, size: int) -> int:
    """max(least, size), which is no branch where `size` is symbolic in an export."""
    return cast(int, torch.sym_max(least, size)) if is_symbolic(size) else max(least, size)


def at_most(most: int, size: int) -> int:
    """min(most, size), which is no branch where `size` is symbolic in an export."""
    return cast(int, torch.sym_min(most, size)) if is_symbolic(size) else min(most, size)


def varies(size: int) -> bool:
    """Whether a graph is being compiled or exported that is to serve many values of `size`."""
    if not torch.compiler.is_compiling():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return not has_static_value(size)


def stable_order(keys: Tensor) -> Tensor:
    """(..., N) integers -> (..., N) int64: places in order of key, where equal keys keep the order of place."""
    tokens = keys.shape[-1]
    if not is_symbolic(tokens):
        return keys.sort(dim=-1, stable=True).indices
    # Distinct keys, as exported graphs may be run by something that has no stable sort.
    return (keys * tokens + torch.arange(tokens, device=keys.device)).sort(dim=-1).indices


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
        # Not -(-N // k): what an exported graph makes of it rounds towards zero.
        return (tokens + self.bucket_size - 1) // self.bucket_size

    def offsets(self, tokens: int) -> list[int]:
        """Which chunks chunk j attends to, as offsets from j, in a circle of J chunks."""
        met = list(OFFSETS[: self.neighbors + 1])
        count = self.chunks(tokens)
        # Comparisons only: a compiler would take a residue for a constant, and compile again for each J.
        return met if self.boundary == "repeat" or count >= len(met) else met[:count]

    def is_dense(self, tokens: int) -> bool:
        """Whether every token attends to every token exactly once, so that all rounds are dense attention.

        With `repeat` this takes one chunk: all keys then count alike. That includes N < k, where the authors' code
        fails. While `tokens` is symbolic, the answer is whether this is so for every N.
        """
        if is_symbolic(tokens):
            from torch.fx.experimental.symbolic_shapes import statically_known_true

            return statically_known_true(tokens <= self.bucket_size)
        return self.chunks(tokens) <= (self.neighbors + 1 if self.boundary == "mask" else 1)


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
