"""Bucket health as numbers: how much of dense attention an attention keeps, and how good its buckets are."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.probing import Probe, probe
from sparse_attn.attention.settings import positive_int
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Buckets, bucket_count
from sparse_attn.ops.attended import attention_weights, chunk_of

# Scores that are written out at once: 32 MiB in float64.
_SCORES = 2**22


@dataclass(frozen=True)
class Health:
    """What `health` measured.

    Args:
        mass_kept: the share of dense attention's weight that is on attended keys, mean over queries, in [0, 1].
        recall: the share of dense attention's heaviest keys that are attended to, mean over queries, in [0, 1].
        output_error: ||sparse - dense|| / ||dense|| of the attention's output, before the residual.
        keys_met: keys that a query is compared with, a key that n rounds have found counted n times; mean.
        occupancy_entropy: of the hash codes, divided by log m: 1 where all m codes are equally frequent; mean over
            rounds and images. None without codes.
        chunk_purity: the share of tokens that carry the most frequent code of their chunk. None without codes.
    """

    mass_kept: float
    recall: float
    output_error: float
    keys_met: float
    occupancy_entropy: float | None
    chunk_purity: float | None


def health(found: Probe, *, against: Probe | None = None, queries: int = 1024, top: int = 16, seed: int = 0) -> Health:
    """Compares what an attention did with dense attention of the same queries and keys, in float64.

    Args:
        found: what `probe` found.
        against: what to compare with instead of dense attention over the whole map: what an attention over local
            windows did, for instance.
        queries: so many tokens are looked at, the same ones of each image; all where there are no more.
        top: how many of the heaviest keys `recall` asks for.
        seed: of the choice of tokens. The global random state is not used.

    Raises:
        ConfigError: `queries` or `top` is not a whole number of at least 1; `against` is of another size.
    """
    positive_int("queries")(queries)
    positive_int("top")(top)
    if against is not None and against.values.shape != found.values.shape:
        raise ConfigError(
            "cannot compare attentions of different sizes",
            expected=tuple(found.values.shape),
            got=tuple(against.values.shape),
        )
    exact = in_float64(found)
    reference = None if against is None else in_float64(against)
    kept = recalled = met = off = whole = 0.0
    sample = sample_tokens(found, queries, seed=seed)
    for some in in_blocks(sample, found):
        counts = exact.counts(some).sum(1, dtype=torch.int16)
        wanted = exact.dense_weights(some) if reference is None else reference.weights(some)
        target = wanted @ (exact if reference is None else reference).values
        attended = counts > 0
        kept += float((wanted * attended).sum())
        heaviest = wanted.topk(min(top, wanted.shape[-1]), dim=-1)
        weighty = heaviest.values > 0
        hit = attended.gather(2, heaviest.indices) & weighty
        recalled += float((hit.sum(-1).double() / weighty.sum(-1)).sum())
        met += float(counts.sum())
        weights = attention_weights(exact.queries[:, some], exact.keys, counts)
        off += float((weights @ exact.values - target).square().sum())
        whole += float(target.square().sum())
    rows = len(found.queries) * len(sample)
    return Health(
        mass_kept=kept / rows,
        recall=recalled / rows,
        output_error=0.0 if off == 0 else math.sqrt(off / whole) if whole else math.inf,
        keys_met=met / rows,
        occupancy_entropy=_occupancy_entropy(found),
        chunk_purity=_chunk_purity(found),
    )


def attention_health(
    model: nn.Module, *inputs: Any, queries: int = 256, top: int = 16, seed: int = 0
) -> dict[str, float]:
    """The health of every attention of a model, as flat names for a log: `body.attention.0/mass_kept`.

    Args:
        model: an attention, or a module that contains some. It runs once, in evaluation mode.
        inputs: of the model.
        queries: see `health`, as for `top` and `seed`.
        top: of `recall`.
        seed: of the sample.

    Returns:
        JSON-able; what does not apply to an attention is left out. Empty for a model without attention.

    Raises:
        ConfigError: the model has attention, and none was called.
    """
    numbers: dict[str, float] = {}
    if not any(isinstance(module, Attention2d) for module in model.modules()):
        return numbers
    for name, found in probe(model, *inputs).items():
        measured = health(found, queries=queries, top=top, seed=seed)
        for field in fields(measured):
            value = getattr(measured, field.name)
            if value is not None:
                numbers[f"{name}/{field.name}" if name else field.name] = value
    return numbers


def in_float64(found: Probe) -> Probe:
    """The same with queries, keys and values in float64, so that its weights are too."""
    return replace(found, queries=found.queries.double(), keys=found.keys.double(), values=found.values.double())


def sample_tokens(found: Probe, count: int, *, seed: int) -> Tensor:
    """(Q,) distinct tokens in order of place; all N of them where `count` is no smaller."""
    tokens = found.queries.shape[1]
    if count >= tokens:
        return torch.arange(tokens)
    return torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def in_blocks(sample: Tensor, found: Probe) -> tuple[Tensor, ...]:
    """Tokens in groups so small that the scores of each with all keys, round by round, fit into a little memory."""
    batch, tokens, _ = found.queries.shape
    return sample.split(max(1, _SCORES // (batch * found.rounds * tokens)))


def _hashed(found: Probe) -> list[tuple[Tensor, Buckets]]:
    return [(r.codes, r.groups) for r in found.regions if r.codes is not None and isinstance(r.groups, Buckets)]


def _occupancy_entropy(found: Probe) -> float | None:
    total = tokens = 0.0
    for codes, buckets in _hashed(found):
        n = codes.shape[2]
        m = bucket_count(n, buckets.bucket_size)
        counts = torch.zeros((*codes.shape[:2], m), dtype=torch.float64)
        counts.scatter_add_(2, codes, torch.ones_like(codes, dtype=torch.float64))
        entropy = torch.special.entr(counts / n).sum(-1) / math.log(m)
        # A window weighs as much as the tokens it has.
        total += float(entropy.sum()) * n
        tokens += codes.numel()
    return total / tokens if tokens else None


def _chunk_purity(found: Probe) -> float | None:
    frequent = tokens = 0
    for codes, buckets in _hashed(found):
        n = codes.shape[2]
        m, chunks = bucket_count(n, buckets.bucket_size), buckets.chunks(n)
        counts = torch.zeros((*codes.shape[:2], chunks * m), dtype=torch.int64)
        counts.scatter_add_(2, chunk_of(buckets, n) * m + codes, torch.ones_like(codes))
        frequent += int(counts.unflatten(2, (chunks, m)).amax(-1).sum())
        tokens += codes.numel()
    return frequent / tokens if tokens else None
