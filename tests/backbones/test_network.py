"""Feature maps from inside the networks, as timm's feature extractors ask for them."""

import copy

import pytest
import torch

from sparse_attn.errors import ConfigError
from sparse_attn.factory import create_model

X = (2, 3, 5, 7)


@pytest.fixture(params=["nlsn_light_x2", "rcan_x3", "edsr_x2"])
def model(request):
    torch.manual_seed(0)
    sizes = {"n_feats": 8, "n_resblocks": 4}
    if request.param == "rcan_x3":
        sizes |= {"n_resblocks": 1, "n_resgroups": 4, "reduction": 4, "attention": "nla"}
    slots = {} if request.param == "edsr_x2" else {"attention_at": [0, 2, 4]}
    return create_model(request.param, **sizes, **slots).eval()


def outputs_of(model, names, x):
    """What modules return, by a hook on each."""
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def test_every_map_is_what_the_named_module_gives(model):
    x = torch.rand(X)
    features, maps = model.forward_intermediates(x)
    named = [info["module"] for info in model.feature_info]
    assert len(maps) == len(named) == 4
    assert all(torch.equal(a, b) for a, b in zip(maps, outputs_of(model, named, x), strict=True))
    assert torch.equal(features, model.forward_features(x))
    assert torch.equal(maps[-1], model.body(model.head(model.sub_mean(x))))
    assert {(info["num_chs"], info["reduction"]) for info in model.feature_info} == {(8, 1)}


def test_a_map_comes_with_the_attention_behind_its_block():
    model = create_model("nlsn_light_x2", n_feats=8, n_resblocks=4, attention_at=[0, 2, 4])
    assert [info["module"] for info in model.feature_info] == [
        "body.blocks.0",
        "body.attention.2",
        "body.blocks.2",
        "body.attention.4",
    ]


@pytest.mark.parametrize(
    ("indices", "meant"),
    [(None, [0, 1, 2, 3]), (2, [2, 3]), (torch.tensor([3]), [3]), ([0, -1], [0, 3]), ((-2, 0, 2), [0, 2])],
)
def test_indices(model, indices, meant):
    x = torch.rand(X)
    every = model.forward_intermediates(x, intermediates_only=True)
    maps = model.forward_intermediates(x, indices, intermediates_only=True)
    assert len(maps) == len(meant)
    assert all(torch.equal(a, every[index]) for a, index in zip(maps, meant, strict=True))


def test_stopping_early_leaves_out_the_rest(model):
    x = torch.rand(X)
    ran = []
    model.body.blocks[2].register_forward_hook(lambda *_: ran.append(2))
    last, maps = model.forward_intermediates(x, [1], stop_early=True)
    assert torch.equal(last, maps[0])
    assert ran == []
    assert model.forward_intermediates(x, [1])[0].shape == last.shape
    assert ran == [2]


def test_pruning_keeps_the_maps_and_leaves_no_parameter_unused(model):
    x = torch.rand(X)
    wanted = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    pruned = copy.deepcopy(model)
    assert pruned.prune_intermediate_layers([1, 0]) == [0, 1]
    maps = pruned.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, wanted, strict=True))
    maps[-1].sum().backward()
    assert all(p.grad is not None for p in pruned.parameters() if p.requires_grad)
    assert len(pruned.feature_info) == 2
    shorter = copy.deepcopy(model)
    shorter.prune_intermediate_layers(1, prune_head=False)
    assert torch.equal(shorter(x), model(x))


@pytest.mark.parametrize("indices", [0, 5, -1, [4], [-5], [], [0.5], 1.5, ["1"], "ab"])
def test_indices_out_of_range_are_refused(model, indices):
    with pytest.raises(ConfigError, match=r"bad indices, expected blocks from 0 to 3, or how many of the last, got"):
        model.forward_intermediates(torch.rand(X), indices)


def test_another_format_is_refused(model):
    with pytest.raises(ConfigError, match="bad output_fmt, expected NCHW, got NLC; permute the maps yourself"):
        model.forward_intermediates(torch.rand(X), output_fmt="NLC")
