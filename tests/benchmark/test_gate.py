"""Whoever computes something else does not get through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.contenders import build, find
from sparse_attn.benchmark.gate import error, gate, gated_case, passes
from tests.benchmark.support import NETWORK, SMALL, TRAINING

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    ["authors", "eager", "eager bf16", "blocked", "dense naive", "dense sdpa", "nla", "topk", "random_bucket"],
)
def test_right_results_pass(name: str) -> None:
    errors = gate(find(name), SMALL, build(find(name), SMALL, CPU), CPU)
    assert passes(errors) and errors["side"] == SMALL.side
    assert errors["output"] > 0 and errors["gradient"] > 0


def test_windows_are_gated_with_the_groups_of_each() -> None:
    case = replace(SMALL, bucket_size=16)
    assert passes(gate(find("local_window"), case, build(find("local_window"), case, CPU), CPU))


def _other_rounds(module: nn.Module) -> Callable[[Tensor], Tensor]:
    module.configure(rounds=1)
    return module


def _no_neighbours(module: nn.Module) -> Callable[[Tensor], Tensor]:
    module.configure(neighbors=0)
    return module


class _DetachedValues(nn.Module):
    """The right output, and a gradient that lacks a part."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).detach() + x - x.detach()


class _Nowhere(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan


@pytest.mark.parametrize("spoil", [_other_rounds, _no_neighbours, _DetachedValues, _Nowhere])
@pytest.mark.parametrize("name", ["eager", "eager bf16"])
def test_wrong_results_do_not(spoil, name: str) -> None:
    assert not passes(gate(find(name), SMALL, spoil(build(find(name), SMALL, CPU)), CPU))


def test_error_is_a_part_of_the_largest_value() -> None:
    expected = torch.tensor([2.0, -8.0], dtype=torch.float64)
    assert error(torch.tensor([2.0, -6.0]), expected) == 0.25


@pytest.mark.parametrize("case", [NETWORK, TRAINING])
@pytest.mark.parametrize("name", ["network eager", "network auto bf16"])
def test_networks_pass_with_groups_of_their_own(case: Case, name: str) -> None:
    errors = gate(find(name), case, nn.Identity(), CPU)
    assert passes(errors) and errors["output"] > 0 and "gradient" not in errors


def test_large_maps_are_gated_at_the_largest_side_that_fits() -> None:
    case = Case(channels=64, side=400)
    assert gated_case(find("nla"), replace(case, side=100)).side == 100
    assert 100 < gated_case(find("nla"), case).side < gated_case(find("eager"), case).side < 400
    assert gated_case(find("network eager"), replace(case, model="nlsn_x4")).side == 24
