from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sparse_attn import convert_attention, create_attention, swap_attention
from sparse_attn.errors import ConfigError
from tests.surgery.networks import NonLocal2d, WithBlock, shaken
from tests.tolerances import RELATIVE

PICTURE = torch.randn(1, 3, 9, 11, generator=torch.Generator().manual_seed(0))


def _off(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights_are_carried_as_they_are(make: object) -> None:
    model = WithBlock(create_attention("nla", 8), 8).eval()
    make(model.block.value)  # type: ignore[operator]
    with torch.no_grad():
        before = model(PICTURE)
        (done,) = swap_attention(model, "block", "nlsa", bucket_size=99, rounds=1)
        assert _off(model(PICTURE), before) < RELATIVE["float32"]
    assert done.lost == () and "value.weight" in done.carried
    assert done.notes == ("value.weight was parametrized and is a plain weight now",)
    assert model.block.value.weight.requires_grad


def test_a_look_at_a_spectral_norm_takes_no_step() -> None:
    model = WithBlock(create_attention("nla", 8), 8).train()
    parametrizations.spectral_norm(model.block.value)
    old = model.block
    state = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    swap_attention(model, "block", "nlsa")
    assert all(torch.equal(tensor, state[name]) for name, tensor in old.state_dict().items())


def test_parametrized_dense_attention_is_converted() -> None:
    model = WithBlock(create_attention("nla", 8), 8).eval()
    parametrizations.weight_norm(model.block.value)
    report = convert_attention(model, calibrate=PICTURE, bucket_size=99, rounds=1)
    assert report.output_error is not None and report.output_error < RELATIVE["float32"]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_a_hook_computes_are_refused() -> None:
    model = WithBlock(create_attention("nla", 8), 8)
    torch.nn.utils.weight_norm(model.block.value)
    old = model.block
    with pytest.raises(ConfigError, match=r"a hook computes the weight of block\.value.*remove_weight_norm"):
        swap_attention(model, "block", "nlsa")
    assert model.block is old


def test_weights_that_were_shared_are_noted() -> None:
    model = nn.Sequential(create_attention("nla", 8), create_attention("nla", 8), create_attention("nla", 8))
    model[1].value = model[0].value
    done = swap_attention(model, "0", "nlsa")
    assert done[0].notes == ("shared with another module until now: value.weight, value.bias",)
    assert swap_attention(model, ["1", "2"], "nlsa")[1].notes == ()


@pytest.mark.parametrize("frozen", ["theta", "phi", "g", ""])
def test_what_was_frozen_stays_frozen(frozen: str) -> None:
    block = NonLocal2d(24, 8)
    if frozen:
        block.get_submodule(frozen).requires_grad_(False)
    else:
        block.requires_grad_(False)
    model = shaken(WithBlock(block, 24))
    swap_attention(model, "block", "nla")
    trained = {name: getattr(model.block, name).weight.requires_grad for name in ("query", "embed", "value")}
    wanted = {"query": frozen not in ("theta", ""), "embed": frozen not in ("phi", ""), "value": bool(frozen)}
    assert trained == wanted


def test_batches_of_a_loader_with_labels_are_refused() -> None:
    model = WithBlock(create_attention("nla", 8), 8)
    with pytest.raises(ConfigError, match=r"bad calibrate, expected images .* got list; of a loader that gives"):
        convert_attention(model, calibrate=[[PICTURE, torch.zeros(1)]])  # type: ignore[list-item]
