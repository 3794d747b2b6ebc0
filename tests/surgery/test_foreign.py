from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparse_attn import create_attention, swap_attention
from sparse_attn.errors import ConfigError
from tests.surgery.networks import NonLocal2d, WithBlock, shaken
from tests.tolerances import RELATIVE

PICTURE = torch.randn(1, 3, 9, 11, generator=torch.Generator().manual_seed(0))


def test_hooks_do_not_see_the_trial_and_are_reported() -> None:
    model = WithBlock(NonLocal2d(24, 8), 24)
    seen: list[str] = []
    model.block.register_forward_hook(lambda *_: seen.append("block"))
    model.block.theta.conv.register_forward_pre_hook(lambda *_: seen.append("theta"))
    (done,) = swap_attention(model, "block", "nla")
    assert seen == []
    assert done.notes[-1] == "hooks on the block that are gone with it: 2"


def test_hooks_of_an_own_attention_are_reported() -> None:
    model = WithBlock(create_attention("nla", 8), 8)
    model.block.register_forward_hook(lambda *_: None)
    assert swap_attention(model)[0].notes == ("hooks on the block that are gone with it: 1",)


class Uncopyable(NonLocal2d):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> NonLocal2d:
        raise RuntimeError("not this one")


def test_a_block_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"block \(Uncopyable\) looks like a non-local block, but cannot be tried"):
        swap_attention(WithBlock(Uncopyable(24, 8), 24), "block", "nla")


@pytest.mark.filterwarnings("ignore:.*_norm:FutureWarning")
@pytest.mark.parametrize("make", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_weights_that_a_hook_computes_are_refused(make: Callable[[nn.Module], nn.Module]) -> None:
    block = NonLocal2d(24, 8)
    make(block.theta.conv)
    model = WithBlock(block, 24)
    model(PICTURE)
    with pytest.raises(ConfigError, match=r"a hook computes the weight of block\.theta\.conv.*remove_weight_norm"):
        swap_attention(model, "block", "nla")
    assert model.block is block


def test_a_wide_convolution_further_on_is_no_non_local_block() -> None:
    block = NonLocal2d(24, 8)
    block.conv_out = nn.Sequential(nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 3, padding=1))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="no attention to exchange"):
        swap_attention(WithBlock(block, 24))


def test_projections_of_several_convolutions() -> None:
    block = NonLocal2d(24, 8)
    block.theta = nn.Sequential(nn.Conv2d(24, 6, 1), nn.Conv2d(6, 8, 1))  # type: ignore[assignment]
    block.conv_out = nn.Sequential(nn.Conv2d(8, 5, 1), nn.Conv2d(5, 24, 1))  # type: ignore[assignment]
    model = shaken(WithBlock(block, 24))
    with torch.no_grad():
        before = model(PICTURE)
        (done,) = swap_attention(model, "block", "nla")
        off = float((model(PICTURE) - before).abs().max() / before.abs().max())
    assert done.lost == () and off < RELATIVE["float32"]
