"""`torch.compile` with dynamic shapes: not once for each image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sparse_attn.attention import create_attention, list_attention

# At k = 16 more than three chunks, and beyond the sizes for which PyTorch takes other convolutions (H*W <= 320).
SIZES = [(18, 19), (23, 29), (31, 17), (20, 32), (37, 41), (26, 35)]
# Windows of 4x4 leave 0, 1 or more rows and columns over, and each is another graph: two such pairs among the sizes.
GRAPHS = {"local_window": 4}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiles(name: str, *, dynamic: bool | None) -> int:
    """How often a block is compiled for all sizes; its outputs are those of the block itself."""
    block = create_attention(name, 64, **({} if name == "nla" else {"bucket_size": 16})).eval()
    counter = CompileCounter()
    compiled = torch.compile(block, backend=counter, dynamic=dynamic, fullgraph=True)
    with torch.no_grad():
        for size in SIZES:
            x = torch.rand(1, 64, *size)
            torch.testing.assert_close(compiled(x), block(x), atol=1e-5, rtol=0)
    return counter.frame_count


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in list_attention() if n not in GRAPHS])
def test_one_graph_serves_all_sizes(name: str) -> None:
    assert compiles(name, dynamic=True) == 1


def test_by_default_the_second_size_is_the_last_to_be_compiled() -> None:
    assert compiles("nlsa", dynamic=None) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_windows_need_a_few_graphs(name: str) -> None:
    assert compiles(name, dynamic=True) <= GRAPHS[name]
