"""Contenders share their parameters, and are left out only for a reason that is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparse_attn.attention import Attention2d
from sparse_attn.benchmark.baselines import Written
from sparse_attn.benchmark.cases import BLOCKS, GRIDS, NETWORKS, TRAININGS, Case, Grid
from sparse_attn.benchmark.contenders import CONTENDERS, build, find, input_of, why_not
from sparse_attn.errors import ConfigError, UnknownNameError
from tests.benchmark.support import NETWORK, SMALL

CPU = torch.device("cpu")
GIB = 2**30


def test_every_name_is_known() -> None:
    assert {*BLOCKS, *NETWORKS, *TRAININGS} == set(CONTENDERS)
    assert find("local_window").attention == "local_window"
    with pytest.raises(UnknownNameError, match="unknown contender 'block'; did you mean blocked"):
        find("block")


def test_blocks_share_parameters_and_input() -> None:
    states = []
    for name in (*BLOCKS, "local_window", "topk"):
        case = replace(SMALL, bucket_size=16)
        module = build(find(name), case, CPU)
        assert not module.training
        block = module.block if isinstance(module, Written) else module
        assert isinstance(block, Attention2d)
        states.append(block.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())
    assert torch.equal(input_of(SMALL, CPU), input_of(SMALL, CPU))
    assert input_of(SMALL, CPU).shape == (2, 8, 11, 11) and input_of(NETWORK, CPU).shape == (1, 3, 11, 11)


def test_settings_reach_the_attention() -> None:
    block = build(find("authors"), SMALL, CPU).block
    assert (block.rounds, block.bucket_size, block.boundary) == (2, 13, "repeat")
    assert build(find("blocked bf16"), SMALL, CPU).backend == "blocked"
    network = build(find("network eager"), NETWORK, CPU)
    inside = [m for m in network.modules() if isinstance(m, Attention2d)]
    assert [(m.backend, m.rounds, m.bucket_size) for m in inside] == [("eager", 2, 13)]


def test_a_network_in_bf16_is_in_channels_last() -> None:
    weight = build(find("network auto bf16"), NETWORK, CPU).head.weight
    assert weight.dtype == torch.float32 and weight.is_contiguous(memory_format=torch.channels_last)


def test_operations_of_both_products() -> None:
    case = Case(channels=64, side=100, rounds=4)
    assert find("blocked").flops(case) == 2 * 10_000 * 4 * 432 * (16 + 64)
    assert find("local_window").flops(case) < find("blocked").flops(case) < find("nla").flops(case)
    assert find("dense sdpa").flops(case) == 2 * 10_000**2 * (16 + 64)
    assert find("blocked").flops(replace(case, side=10)) == 2 * 100 * 4 * 100 * (16 + 64)


def test_too_large_or_too_slow_is_left_out_with_a_reason() -> None:
    case = Case(channels=64, side=400)
    # Four (N, N) matrices of 160,000 pixels in float32, and three.
    reason = why_not(find("dense naive"), case, CPU, 1e12, 20 * GIB, 30.0)
    assert reason == "its scores would take 381 GiB, 20 are free"
    topk = why_not(find("topk"), case, CPU, 1e12, 20 * GIB, 30.0)
    assert topk == "its scores would take 286 GiB, 20 are free"
    slow = why_not(find("dense sdpa"), case, CPU, 1e11, 20 * GIB, 30.0)
    assert slow == "a forward and backward pass would take 123 s at the machine's matmul rate, or more"
    assert why_not(find("dense sdpa"), case, CPU, 1e12, 20 * GIB, 30.0) is None
    assert why_not(find("blocked"), case, CPU, 1e11, 20 * GIB, 30.0) is None


def test_a_backend_that_cannot_run_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(find("blocked"), SMALL, CPU, 1e11, GIB, 30.0) is None
    monkeypatch.setattr("sparse_attn.benchmark.contenders.BACKENDS", ("auto", "eager"))
    assert why_not(find("blocked"), SMALL, CPU, 1e11, GIB, 30.0) == "no backend 'blocked'"


def test_grids_are_products_that_options_replace() -> None:
    assert [case.side for case in GRIDS["size"].cases()] == sorted({c.side for c in GRIDS["size"].cases()})
    grid = Grid().replaced(channels=(8, 16), sizes=(5, 7), rounds=None, bucket_size=4)
    assert [(c.channels, c.side, c.rounds, c.bucket_size) for c in grid.cases()] == [
        (8, 5, 4, 4),
        (8, 7, 4, 4),
        (16, 5, 4, 4),
        (16, 7, 4, 4),
    ]
    with pytest.raises(ConfigError, match="bad sizes, expected numbers of at least 1, got"):
        Grid().replaced(sizes=(0,))
