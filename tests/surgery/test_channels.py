from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn import insert_attention, model_edits
from sparse_attn.errors import ConfigError
from tests.surgery.networks import UNet

PICTURE = torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))


class Looping(nn.Module):
    """Runs a list of convolutions by a function of (list, map)."""

    def __init__(self, how: Callable[[nn.ModuleList, Tensor], Any], *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, bias=bias) for _ in range(3)])
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.how(self.blocks, self.stem(x))


def _one_by_one(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _residual(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = x + block(x)
    return x


def _all_but_the_last(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for index, block in enumerate(blocks):
        x = block(x) if index == len(blocks) - 1 else block(x).relu()
    return x


def _each_scale(blocks: nn.ModuleList, x: Tensor) -> dict[str, list[Tensor]]:
    scales = []
    for block in blocks:
        scales.append(block(x))
        x = F.max_pool2d(scales[-1], 2)
    return {"scales": scales}


@pytest.mark.parametrize("how", [_residual, _all_but_the_last, _each_scale])
@pytest.mark.parametrize("bias", [True, False])
def test_a_loop_that_one_child_more_changes_is_refused(how: Callable[..., Any], bias: bool) -> None:
    model = Looping(how, bias=bias).eval()
    names = list(model.state_dict())
    with pytest.raises(ConfigError, match="blocks: the model runs its children in its own way; choose a module within"):
        insert_attention(model, "blocks")
    assert list(model.state_dict()) == names


def test_a_loop_that_only_runs_its_children_takes_the_attention_as_one_of_them() -> None:
    model = Looping(_one_by_one).eval()
    with torch.no_grad():
        before = model(PICTURE)
        insert_attention(model, "blocks", bucket_size=16)
        assert torch.equal(model(PICTURE), before)
        nn.init.normal_(model.blocks.attention_after.value.weight)
        assert not torch.equal(model(PICTURE), before)


class OnlyItsWeights(nn.Module):
    """Never calls its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.conv.weight, self.conv.bias)


def test_a_convolution_that_is_never_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="conv did not run on the sample"):
        insert_attention(OnlyItsWeights(), "conv")


@pytest.mark.parametrize("sample", [None, PICTURE.bfloat16()])
def test_a_norm_in_another_precision_than_the_maps(sample: Tensor | None) -> None:
    model = UNet().bfloat16().eval()
    model.up1[1].float()
    with torch.no_grad():
        before = model(PICTURE.bfloat16())
        insert_attention(model, "up1.1", sample=sample)
        assert torch.equal(model(PICTURE.bfloat16()), before)
    assert model.up1[1].attention_after.value.weight.dtype is torch.bfloat16


def test_autocast_within_the_model_does_not_lower_the_weights() -> None:
    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.conv(x)

    model = Autocast()
    insert_attention(model, "conv")
    assert model.conv.attention_after.value.weight.dtype is torch.float32


def test_the_sample_is_not_written_to() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 8, 1))
    sample = PICTURE.clone()
    insert_attention(model, "1", sample=sample)
    assert torch.equal(sample, PICTURE)


def test_inputs_by_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bad sample, expected a tensor, or the tuple.*got dict"):
        insert_attention(UNet(), "up1", sample={"x": PICTURE})  # type: ignore[arg-type]


def test_a_bad_setting_draws_no_random_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    random = torch.get_rng_state()
    with pytest.raises(ConfigError, match="reduction=2 or less"):
        insert_attention(model, nn.Conv2d)
    assert torch.equal(torch.get_rng_state(), random)
    assert model_edits(model) == []
