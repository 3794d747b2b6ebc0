"""`torch.compile` with dynamic shapes: not once for each image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sparse_attn.attention import Attention2d, create_attention, list_attention

# At k = 16 more than three chunks, and beyond the sizes for which PyTorch takes other convolutions (H*W <= 320).
SIZES = [(18, 19), (23, 29), (31, 17), (20, 32), (37, 41), (26, 35)]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiles(block: Attention2d, *, dynamic: bool | None) -> int:
    """How often a block is compiled for all sizes; its outputs are those of the block itself."""
    counter = CompileCounter()
    compiled = torch.compile(block.eval(), backend=counter, dynamic=dynamic, fullgraph=True)
    with torch.no_grad():
        for size in SIZES:
            x = torch.rand(1, 64, *size)
            torch.testing.assert_close(compiled(x), block(x), atol=1e-5, rtol=0)
    return counter.frame_count


def sparse(name: str) -> Attention2d:
    return create_attention(name, 64, **({} if name == "nla" else {"bucket_size": 16}))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_attention())
def test_one_graph_serves_all_sizes(name: str) -> None:
    assert compiles(sparse(name), dynamic=True) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("nla", {}), ("nlsa", {"bucket_size": 16})])
def test_one_graph_serves_dense_windows_whatever_they_leave_over(name: str, options: dict[str, int]) -> None:
    assert compiles(create_attention(name, 64, window=(5, 7), **options), dynamic=True) == 1


def test_windows_of_small_maps_are_in_the_same_graph() -> None:
    block = create_attention("local_window", 6, bucket_size=16).eval()
    counter = CompileCounter()
    compiled = torch.compile(block, backend=counter, dynamic=True, fullgraph=True)
    for size in [(9, 10), (4, 8), (4, 4), (3, 2), (12, 8)]:
        x = torch.rand(2, 6, *size)
        torch.testing.assert_close(compiled(x), block(x), atol=1e-5, rtol=0)
    assert counter.frame_count == 1


def test_by_default_the_second_size_is_the_last_to_be_compiled() -> None:
    assert compiles(sparse("nlsa"), dynamic=None) == 2
