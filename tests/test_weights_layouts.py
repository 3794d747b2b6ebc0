"""State dicts into models: whole or not at all, in our names and the authors'."""

import pytest
import torch
from torch import nn

from sparse_attn.backbones import EDSR, RCAN
from sparse_attn.errors import WeightsError
from sparse_attn.weights import load_checkpoint
from sparse_attn.weights.layouts import authors_names


def _edsr(**changes):
    slots = {"attention": "nla", "attention_at": (0, 2)}
    return EDSR(**{"scale": 2, "n_resblocks": 3, "n_feats": 8, **slots, **changes})


def _filled(model):
    fixed = {name: t.clone() for name, t in model.state_dict().items() if "mean" in name or not t.is_floating_point()}
    return {name: fixed.get(name, torch.randn(t.shape)) for name, t in model.state_dict().items()}


def _assert_holds(model, weights):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name].to(tensor.dtype)), name


def test_authors_names_of_edsr_count_the_attentions_among_the_blocks():
    model = _edsr(scale=4)
    names = authors_names(model.state_dict())
    modules = {name.rpartition(".")[0]: theirs.rpartition(".")[0] for name, theirs in names.items()}
    assert modules == {
        "sub_mean": "sub_mean",
        "head": "head.0",
        "body.attention.0.embed": "body.0.conv_match.0",
        "body.attention.0.value": "body.0.conv_assembly.0",
        "body.blocks.0.body.0": "body.1.body.0",
        "body.blocks.0.body.2": "body.1.body.2",
        "body.blocks.1.body.0": "body.2.body.0",
        "body.blocks.1.body.2": "body.2.body.2",
        "body.attention.2.embed": "body.3.conv_match.0",
        "body.attention.2.value": "body.3.conv_assembly.0",
        "body.blocks.2.body.0": "body.4.body.0",
        "body.blocks.2.body.2": "body.4.body.2",
        "body_conv": "body.5",
        "upsampler.0": "tail.0.0",
        "upsampler.2": "tail.0.2",
        "tail": "tail.1",
        "add_mean": "add_mean",
    }


def test_the_published_positions_become_the_authors_indices():
    model = EDSR(scale=2, n_resblocks=32, n_feats=4, attention="nla", attention_at=(0, 8, 16, 24, 32))
    theirs = authors_names(model.state_dict()).values()
    assert sorted({int(n.split(".")[1]) for n in theirs if "conv_match" in n}) == [0, 9, 18, 27, 36]
    assert "body.37.weight" in theirs


def test_authors_names_of_rcan_nest():
    model = RCAN(scale=2, n_resgroups=2, n_resblocks=2, n_feats=8, reduction=2)
    names = authors_names(model.state_dict())
    assert names["body.blocks.1.blocks.0.body.3.conv_du.2.bias"] == "body.1.body.0.body.3.conv_du.2.bias"
    assert names["body.blocks.1.conv.weight"] == "body.1.body.2.weight"
    assert names["body_conv.weight"] == "body.2.weight"
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("authors", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("container", [None, "state_dict", "params", "model"])
def test_layouts_prefixes_and_containers(authors, prefix, container):
    model = _edsr()
    weights = _filled(model)
    names = authors_names(weights) if authors else {name: name for name in weights}
    given = {prefix + names[name]: tensor for name, tensor in weights.items()}
    load_checkpoint(model, given if container is None else {container: given, "epoch": 3})
    _assert_holds(model, weights)


def test_a_wrapped_model_takes_plain_weights():
    model = nn.DataParallel(_edsr())
    weights = _filled(model.module)
    load_checkpoint(model, weights)
    _assert_holds(model.module, weights)


def test_any_module_loads_its_own_names():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    weights = {**_filled(model), "1.num_batches_tracked": torch.tensor(7)}
    load_checkpoint(model, weights)
    _assert_holds(model, weights)


def test_trained_mean_shifts_are_loaded():
    model = _edsr()
    weights = _filled(model)
    weights["sub_mean.weight"] += 0.1 * torch.randn(3, 3, 1, 1)
    weights["add_mean.bias"] *= 1.1
    load_checkpoint(model, weights)
    _assert_holds(model, weights)


@pytest.mark.parametrize(("stored", "own"), [(torch.float16, torch.float32), (torch.float32, torch.float64)])
def test_stored_dtypes_are_cast_to_the_models(stored, own):
    model = _edsr().to(own)
    weights = {name: tensor.to(stored) for name, tensor in _filled(model).items()}
    load_checkpoint(model, weights)
    _assert_holds(model, weights)
    assert {t.dtype for t in model.state_dict().values()} == {own}


@pytest.mark.parametrize("authors", [False, True])
def test_all_that_does_not_fit_is_named_and_nothing_is_loaded(authors):
    model = _edsr()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = _filled(model)
    names = authors_names(weights) if authors else {name: name for name in weights}
    given = {names[name]: tensor for name, tensor in weights.items()}
    gone = [names["head.weight"], names["body.blocks.1.body.2.bias"]]
    for name in gone:
        del given[name]
    given["extra.weight"] = torch.zeros(1)
    given["another.bias"] = torch.zeros(1)
    wrong, kind = names["tail.weight"], names["tail.bias"]
    given[wrong] = torch.zeros(3, 9, 3, 3)
    given[kind] = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(model, given)
    assert str(caught.value) == (
        f"the state dict does not fit EDSR, got missing: {gone[0]}, {gone[1]}; unexpected: another.bias, extra.weight; "
        f"misshapen: {wrong} is (3, 9, 3, 3) where the model has (3, 8, 3, 3), "
        f"{kind} is (3,) torch.int64 where the model has (3,); "
        "build the model with the configuration that the weights were trained with"
    )
    _assert_holds(model, before)


def test_other_depths_are_refused():
    with pytest.raises(WeightsError, match=r"unexpected: body\.blocks\.3\.body\.0\.bias, .*body\.blocks\.3\.body"):
        load_checkpoint(_edsr(), _filled(_edsr(n_resblocks=4)))
    with pytest.raises(WeightsError, match=r"missing: .*body\.blocks\.2\.body\.0\.weight"):
        load_checkpoint(_edsr(), _filled(_edsr(n_resblocks=2)))


@pytest.mark.parametrize(("trained", "built"), [(255, 1), (1, 255)])
def test_another_range_of_colours_is_refused(trained, built):
    model = _edsr(rgb_range=built)
    with pytest.raises(WeightsError, match=f"another rgb_range, .*build the model .* {trained} as a rule"):
        load_checkpoint(model, _filled(_edsr(rgb_range=trained)))
    load_checkpoint(_edsr(rgb_range=trained), _filled(_edsr(rgb_range=trained)))


def test_the_meta_device_holds_no_weights():
    weights = _filled(_edsr())
    with torch.device("meta"):
        model = _edsr()
    with pytest.raises(WeightsError, match=r"the model is on the meta device, got .*; build it on a real device"):
        load_checkpoint(model, weights)


def test_attentions_with_the_same_parameters_exchange_weights():
    weights = _filled(_edsr(attention="nlsa"))
    for name in ("nla", "local_window", "random_bucket", "topk"):
        model = _edsr(attention=name)
        load_checkpoint(model, weights)
        _assert_holds(model, weights)
