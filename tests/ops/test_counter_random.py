"""The counter-based generator: reproducible, independent streams, the right distribution."""

from __future__ import annotations

import torch

from sparse_attn.ops import random_bits, random_normal, random_order

CPU = torch.device("cpu")


def test_a_pure_function_of_seed_and_draw() -> None:
    first = random_bits(997, seed=3, draw=5, device=CPU)
    assert torch.equal(first, random_bits(997, seed=3, draw=torch.tensor(5), device=CPU))
    for seed, draw in ((3, 6), (4, 5), (-3, 5), (5, 3)):
        other = random_bits(997, seed=seed, draw=draw, device=CPU)
        assert int((first == other).sum()) == 0


def test_bits_are_uniform() -> None:
    bits = random_bits(1 << 16, seed=0, draw=0, device=CPU)
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 2**32
    ones = torch.stack([(bits >> b & 1).double().mean() for b in range(32)])
    # Five standard deviations of 65,536 fair coins.
    assert float((ones - 0.5).abs().max()) < 5 * 0.5 / 256


def test_normal_distribution() -> None:
    x = random_normal((256, 256), seed=1, draw=0, device=CPU).double()
    assert x.dtype == torch.float64
    assert abs(float(x.mean())) < 5 / 256
    assert abs(float(x.var()) - 1) < 5 * 2**0.5 / 256
    assert abs(float((x**4).mean()) - 3) < 5 * 96**0.5 / 256
    inside = float((x.abs() < 1).double().mean())
    assert abs(inside - 0.6827) < 5 * 0.466 / 256
    rows = torch.corrcoef(x) - torch.eye(256)
    assert float(rows.abs().max()) < 6 / 16


def test_orders_are_permutations() -> None:
    order = random_order(97, 5, seed=2, draw=1, device=CPU)
    assert order.sort(dim=-1).values.eq(torch.arange(97)).all()
    assert len({tuple(row.tolist()) for row in order}) == 5
