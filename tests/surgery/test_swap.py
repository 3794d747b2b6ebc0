from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sparse_attn
from sparse_attn import Attention2d, create_attention
from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.surgery import insert_attention, model_edits, remove_attention, swap_attention
from tests.surgery.networks import NonLocal2d, UNet, WithBlock, shaken
from tests.tolerances import RELATIVE

PICTURE = torch.randn(2, 3, 11, 13, generator=torch.Generator().manual_seed(0))


def _relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    "options",
    [{}, {"use_scale": True}, {"norm": True}, {"norm": True, "use_scale": True, "out": "W"}, {"out": "W_z"}],
    ids=str,
)
@pytest.mark.parametrize("width", [8, 7])
def test_mmcv_block_becomes_the_same_function(options: dict[str, Any], width: int) -> None:
    model = shaken(WithBlock(NonLocal2d(24, width, **options), 24)).double()
    x = PICTURE.double()
    with torch.no_grad():
        before = model(x)
        (done,) = swap_attention(model, "block", "nla")
        assert _relative(model(x), before) < RELATIVE["float64"]
    assert (done.name, done.before, done.attention, done.channels) == ("block", "NonLocal2d", "nla", 24)
    assert done.carried == ("embed", "query", "value") and done.lost == ()
    assert any("running statistics" in note for note in done.notes) == ("norm" in options)
    assert any("7 wide, now 8" in note for note in done.notes) == (width == 7)
    assert not model.training and not model.block.training


@pytest.mark.parametrize("use_scale", [True, False])
def test_timm_block_becomes_the_same_function(use_scale: bool) -> None:
    from timm.layers import NonLocalAttn

    model = shaken(WithBlock(NonLocalAttn(24, use_scale=use_scale), 24))
    with torch.no_grad():
        before = model(PICTURE)
        (done,) = swap_attention(model, attention="nla")
        assert _relative(model(PICTURE), before) < RELATIVE["float32"]
        swap_attention(model, attention="nla", embed_kernel=3)
        assert _relative(model(PICTURE), before) < RELATIVE["float32"]
        swap_attention(model, attention="nlsa", bucket_size=11 * 13)
        assert _relative(model(PICTURE), before) < RELATIVE["float32"]
    assert done.before == "NonLocalAttn" and done.lost == ()


def test_timm_network_with_non_local_blocks() -> None:
    import timm
    from timm.layers import NonLocalAttn

    model = timm.create_model("resnet18", block_args={"attn_layer": "nl"}).eval()
    for block in [module for module in model.modules() if isinstance(module, NonLocalAttn)]:
        shaken(block)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        done = swap_attention(model, "layer[34]", "nla")
        assert _relative(model(x), before) < RELATIVE["float32"]
    assert [one.name for one in done] == ["layer3.0.se", "layer3.1.se", "layer4.0.se", "layer4.1.se"]
    assert sum(isinstance(module, Attention2d) for module in model.modules()) == 4


def test_zero_weights_do_not_hide_what_a_block_computes() -> None:
    block = NonLocal2d(24, 8, use_scale=True)
    nn.init.zeros_(block.conv_out.conv.weight)
    model = WithBlock(block, 24)
    theta = block.theta.conv.weight.detach().clone()
    swap_attention(model, "block", "nlsa")
    assert torch.allclose(model.block.query.weight, theta / 8**0.5)
    assert not model.block.value.weight.any()


def test_pooled_block_is_carried_with_a_note() -> None:
    model = shaken(WithBlock(NonLocal2d(24, 8, pool=True, use_scale=True), 24))
    (done,) = swap_attention(model, "block", "nla")
    assert done.carried == ("embed", "query", "value")
    assert done.notes == ("it attended to a max-pooled map, now to every pixel",)


def test_another_function_is_not_carried() -> None:
    model = shaken(WithBlock(NonLocal2d(24, 8, softmax=False), 24))
    (done,) = swap_attention(model, "block", "nla", zero_init=True)
    assert done.carried == ()
    assert done.lost == ("every weight (it is no softmax of theta times phi (embedded Gaussian))",)
    x = PICTURE
    assert torch.equal(model(x), model.conv(x))


def test_settings_that_leave_no_place_are_reported() -> None:
    model = shaken(WithBlock(NonLocal2d(24, 8), 24))
    (done,) = swap_attention(model, "block", "nla", shared_qk=True, reduction=6)
    assert done.carried == ("value",)
    assert [part.partition(" ")[0] for part in done.lost] == ["embed", "query"]
    other = shaken(WithBlock(NonLocal2d(24, 8), 24))
    (done,) = swap_attention(other, "block", "nla", reduction=6, normalize_keys=True)
    assert done.lost == ("embed (8 wide, now 4)", "query (8 wide, now 4)")


def test_ours_keep_settings_and_weights() -> None:
    model = sparse_attn.create_model("nlsn_light_x4", attention_kwargs={"rounds": 2, "bucket_size": 16}).eval()
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(PICTURE)
        done = swap_attention(model, "body", "random_bucket")
        assert all(one.lost == () and len(one.carried) == 4 for one in done)
        blocks = [module for module in model.modules() if isinstance(module, Attention2d)]
        assert len(blocks) == len(done) > 1
        assert {(b.bucket_size, b.rounds) for b in blocks} == {(16, 2)}  # type: ignore[attr-defined]
        assert not torch.equal(model(PICTURE), before)
        assert list(model.state_dict()) == names
        swap_attention(model, "**", "nlsa")
        assert torch.equal(model(PICTURE), before)
        swap_attention(model, "**", "topk", bucket_size=7)
        assert sorted(remove_attention(model)) == sorted(one.name for one in done)
        assert torch.equal(model(PICTURE), before)
    assert model_edits(model) == []


def test_embedding_is_split_and_grows_without_changing_the_function() -> None:
    model = nn.Sequential(create_attention("nla", 12, embed_kernel=1), nn.Conv2d(12, 2, 1))
    x = torch.randn(1, 12, 7, 5)
    with torch.no_grad():
        before = model(x)
        (done,) = swap_attention(model, "0", "nla", embed_kernel=5, shared_qk=False)
        assert _relative(model(x), before) < RELATIVE["float32"]
    assert "query.weight (from embed.weight)" in done.carried and done.lost == ()
    model[0].value.weight.requires_grad_(False)
    (done,) = swap_attention(model, "0", "nlsa", embed_kernel=1, normalize_keys=False)
    assert done.carried == ("embed.bias", "query.bias", "value.weight", "value.bias")
    assert done.lost == (
        "embed.weight ((3, 12, 5, 5) does not fit (3, 12, 1, 1))",
        "query.weight ((3, 12, 5, 5) does not fit (3, 12, 1, 1))",
    )
    assert done.notes == ("keys are no longer normalised",)
    assert not model[0].value.weight.requires_grad
    with pytest.raises(ConfigError, match="0 cannot become what it was"):
        remove_attention(model)


def test_inserted_ones_stay_inserted() -> None:
    model = UNet().eval()
    before, names = model(PICTURE), list(model.state_dict())
    insert_attention(model, "up1", "nlsa", rounds=2)
    insert_attention(model, "middle.*", "nla")
    assert [one.name for one in swap_attention(model, "up1", "random_bucket")] == ["up1.attention_after"]
    assert model.up1.attention_after.rounds == 2
    assert [(e["edit"], e["attention"]) for e in model_edits(model)] == [("insert", "nla")] * 3 + [
        ("insert", "random_bucket")
    ]
    assert torch.equal(model(PICTURE), before)
    assert remove_attention(model, ["middle.0", "up1"]) == ["middle.0.attention_after", "up1.attention_after"]
    remove_attention(model)
    assert list(model.state_dict()) == names


def test_every_name_of_a_shared_block_is_exchanged() -> None:
    block = create_attention("nla", 8)
    model = nn.ModuleDict({"a": block, "b": nn.Sequential(block)})
    swap_attention(model, "b")
    assert model["a"] is model["b"][0]
    assert type(model["a"]).__name__ == "NonLocalSparseAttention"


def test_refused_and_nothing_changed() -> None:
    with pytest.raises(ConfigError, match=r"no attention to exchange.*insert_attention puts some in"):
        swap_attention(UNet())
    with pytest.raises(ConfigError, match="no attention to exchange"):
        swap_attention(WithBlock(nn.Sequential(NonLocal2d(24, 8).theta), 24))
    model = nn.Sequential(create_attention("nla", 8), create_attention("nla", 8))
    blocks = list(model)
    with pytest.raises(ConfigError, match=r"no module matches '2'; .*0, 1"):
        swap_attention(model, "2")
    with pytest.raises(UnknownNameError, match="rouns"):
        swap_attention(model, rouns=2)
    with pytest.raises(ConfigError, match="bad rounds"):
        swap_attention(model, rounds=0)
    assert list(model) == blocks
    foreign = WithBlock(NonLocal2d(24, 8), 24)
    insert_attention(foreign, "block")
    with pytest.raises(ConfigError, match="an attention was inserted after block, or within it"):
        swap_attention(foreign, "block")


def test_wide_convolutions_are_no_non_local_block() -> None:
    block = NonLocal2d(24, 8)
    block.theta.conv = nn.Conv2d(24, 8, 3, padding=1)
    with pytest.raises(ConfigError, match="no attention to exchange"):
        swap_attention(WithBlock(block, 24))


def test_removal_of_nothing_and_of_what_cannot_be_restored() -> None:
    with pytest.raises(ConfigError, match=r"no attention to remove.*attention=None"):
        remove_attention(sparse_attn.create_model("nlsn_light_x4"))
    model = WithBlock(NonLocal2d(24, 8), 24)
    insert_attention(model, "conv")
    swap_attention(model, "block")
    with pytest.raises(ConfigError, match="block cannot become what it was, got NonLocal2d"):
        remove_attention(model)
    assert len(model_edits(model)) == 2
    assert remove_attention(model, "conv") == ["conv.attention_after"]
