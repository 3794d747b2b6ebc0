"""Models by name."""

import json
import re

import pytest
import torch
from torch import nn

from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.factory import create_model, is_model, list_models, model_config, register_model
from sparse_attn.weights import write_zoo_folder

SMALL = {"n_resblocks": 2, "n_feats": 8}
FAMILIES = ("edsr", "edsr_baseline", "rcan", "nlsn", "nlsn_light")
# RCAN's published figures count the colour shifts, which its code trains by accident.
MEAN_SHIFT = 24
LEARNABLE = {
    "edsr_x2": 40_729_603,
    "edsr_x4": 43_089_923,
    "edsr_baseline_x2": 1_369_859,
    "edsr_baseline_x4": 1_517_571,
    "rcan_x2": 15_444_667 - MEAN_SHIFT,
    "rcan_x4": 15_592_379 - MEAN_SHIFT,
}


@pytest.fixture
def toy_zoo(tmp_path, monkeypatch):
    """A registered toy NLSN, and its weights in a zoo of its own."""
    config = {"attention": "nlsa", "attention_at": (0, 2), "attention_kwargs": {"bucket_size": 9, "rounds": 2}}
    monkeypatch.setattr(models, "_entries", dict(models._entries))
    entry = register_model("toy_x2", models.get("nlsn_x2").builder, scale=2, **SMALL, **config)
    torch.manual_seed(1)
    trained = {**model_config("toy_x2"), "attention_kwargs": {"bucket_size": 9, "rounds": 3}}
    weights = entry.build().state_dict()
    write_zoo_folder(tmp_path / "toy_x2", weights, model="toy_x2", config=trained, dtype=torch.float16)
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(tmp_path))
    return weights


def _settings(model, name):
    return {getattr(block, name) for block in model.body.attention.values()}


def test_every_family_has_every_scale():
    assert set(list_models()) >= {f"{family}_x{scale}" for family in FAMILIES for scale in (2, 3, 4)}
    assert list_models("rcan_*") == ["rcan_x2", "rcan_x3", "rcan_x4"]
    assert list_models("nothing*") == []
    assert is_model("nlsn_light_x4")
    assert not is_model("nlsn_light_x5")


@pytest.mark.parametrize("name", sorted(LEARNABLE))
def test_published_sizes(name):
    model = create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == LEARNABLE[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_model_enlarges(family, scale):
    small = {**SMALL, **({"n_resgroups": 1, "reduction": 4} if family == "rcan" else {})}
    model = create_model(f"{family}_x{scale}", attention="nlsa", attention_at=(0, 1), **small)
    assert model(torch.rand(1, 3, 5, 7)).shape == (1, 3, 5 * scale, 7 * scale)
    assert model.scale == scale
    assert model.training


@pytest.mark.parametrize("name", ["edsr_x2", "rcan_x3", "nlsn_x4", "nlsn_light_x2"])
def test_a_configuration_is_json_and_builds_the_model(name):
    config = model_config(name)
    assert json.loads(json.dumps(config)) == config
    assert config["scale"] == int(name[-1])
    built = create_model(name, device="meta", **config)
    assert {k: t.shape for k, t in built.state_dict().items()} == {
        k: t.shape for k, t in create_model(name, device="meta").state_dict().items()
    }


def test_a_configuration_is_a_copy():
    model_config("nlsn_x2")["attention_kwargs"]["rounds"] = 99
    assert model_config("nlsn_x2")["attention_kwargs"] == {"bucket_size": 144, "rounds": 4}
    assert model_config("nlsn_x2")["attention_at"] == [0, 8, 16, 24, 32]


def test_a_class_in_a_configuration_is_named(monkeypatch):
    monkeypatch.setattr(models, "_entries", dict(models._entries))
    register_model("with_class_x2", models.get("edsr_x2").builder, scale=2, attention=nn.Identity)
    assert model_config("with_class_x2")["attention"] == "torch.nn.modules.linear:Identity"


def test_none_empties_the_slots():
    assert len(create_model("nlsn_light_x2", attention=None, n_feats=8).body.attention) == 0
    assert len(create_model("nlsn_light_x2", n_feats=8).body.attention) == 3
    whole = {**model_config("nlsn_light_x2"), "attention": None, "n_feats": 8}
    assert len(create_model("nlsn_light_x2", **whole).body.attention) == 0


def test_the_ablation_network_of_the_paper_is_a_call():
    model = create_model("edsr_baseline_x2", attention="nlsa", attention_at=[8], device="meta")
    assert list(model.body.attention) == ["8"]


@pytest.mark.parametrize(
    ("name", "places"),
    [("edsr_x2", [0, 8, 16, 24, 32]), ("edsr_baseline_x3", [0, 8, 16]), ("rcan_x2", [0, 5, 10])],
)
def test_a_model_without_places_gets_the_usual_ones(name, places):
    model = create_model(name, attention="local_window", device="meta")
    assert list(model.body.attention) == [str(place) for place in places]


def test_settings_are_merged_over_the_models_own():
    model = create_model("nlsn_light_x2", attention_kwargs={"rounds": 7}, n_feats=8)
    assert (_settings(model, "rounds"), _settings(model, "bucket_size")) == ({7}, {144})


def test_another_attention_keeps_the_settings_it_takes():
    model = create_model("nlsn_light_x2", attention="local_window", n_feats=8)
    assert _settings(model, "bucket_size") == {144}
    model = create_model("nlsn_light_x2", attention="local_window", attention_kwargs={"bucket_size": 49}, n_feats=8)
    assert _settings(model, "bucket_size") == {49}
    assert len(create_model("nlsn_light_x2", attention="nla", n_feats=8).body.attention) == 3


def test_attention_may_be_a_class():
    class Halve(nn.Module):
        def __init__(self, channels, *, res_scale, bucket_size):
            super().__init__()
            self.bucket_size = bucket_size

        def forward(self, x):
            return x / 2

    model = create_model("nlsn_light_x2", attention=Halve, attention_at=[3], n_feats=8)
    assert _settings(model, "bucket_size") == {144}
    assert list(model.body.attention) == ["3"]


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("nlsn_x5", {}, UnknownNameError, "unknown model 'nlsn_x5'; did you mean nlsn_x"),
        ("edsr_x2", {"n_resblock": 3}, UnknownNameError, "of edsr_x2 'n_resblock'; did you mean n_res"),
        ("nlsn_x2", {"attention": "nlas"}, UnknownNameError, "unknown attention 'nlas'; did you mean .*nlsa"),
        ("nlsn_x2", {"attention_kwargs": {"round": 2}}, UnknownNameError, "'round'; did you mean rounds"),
        ("edsr_x2", {"attention_kwargs": {"rounds": 2}}, ConfigError, "attention_kwargs without an attention"),
        ("edsr_x2", {"attention_at": [8]}, ConfigError, "without an attention, got none; pass attention= too"),
        ("nlsn_x2", {"attention_at": [33]}, ConfigError, "bad attention_at, expected distinct positions from 0 to 32"),
        ("edsr_x2", {"scale": 5}, ConfigError, "unsupported scale"),
        ("rcan_x2", {"scale": "4"}, ConfigError, "unsupported scale, expected 1, 3 or a power of two, got '4'; use"),
        ("edsr_x2", {"dtype": torch.int64}, ConfigError, "bad dtype, expected a floating-point torch.dtype"),
        ("edsr_x2", {"dtype": "float16"}, ConfigError, "bad dtype, .* got 'float16'"),
        ("edsr_x2", {"device": "toaster"}, ConfigError, "bad device, got 'toaster'"),
        ("edsr_x2", {"pretrained": True, "checkpoint": "w.pt"}, ConfigError, "pretrained and checkpoint exclude each"),
        ("edsr_x2", {"checkpoint": "absent.pt", **SMALL}, WeightsError, "no weights at absent.pt"),
    ],
)
def test_bad_arguments_are_one_clear_error(name, arguments, error, message):
    with pytest.raises(error, match=message):
        create_model(name, **arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype(dtype):
    model = create_model("edsr_baseline_x2", dtype=dtype, **SMALL)
    assert {t.dtype for t in model.state_dict().values()} == {dtype}
    assert model(torch.rand(1, 3, 5, 7, dtype=dtype)).dtype == dtype


def test_the_meta_device_allocates_nothing():
    model = create_model("nlsn_x4", device="meta")
    assert all(t.is_meta for t in model.state_dict().values())


def test_a_seed_gives_the_same_weights():
    torch.manual_seed(3)
    first = create_model("rcan_x2", n_resgroups=1, reduction=2, **SMALL).state_dict()
    torch.manual_seed(3)
    second = create_model("rcan_x2", n_resgroups=1, reduction=2, **SMALL).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_checkpoint_is_loaded_from_a_file_or_a_mapping(tmp_path):
    weights = create_model("edsr_x2", **SMALL).state_dict()
    torch.save({"state_dict": weights}, tmp_path / "weights.pt")
    for source in (weights, tmp_path / "weights.pt", str(tmp_path / "weights.pt")):
        loaded = create_model("edsr_x2", checkpoint=source, **SMALL).state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in weights.items())


def test_pretrained_loads_the_zoos_weights_with_the_configuration_they_were_trained_with(toy_zoo):
    model = create_model("toy_x2", pretrained=True)
    assert all(torch.equal(t, toy_zoo[name].half().float()) for name, t in model.state_dict().items())
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    assert _settings(model, "rounds") == {3}
    assert "toy_x2" in list_models(pretrained=True)
    assert list_models("rcan*", pretrained=True) == []


@pytest.mark.parametrize("attention", ["nla", "local_window", "random_bucket", "topk", "nlsa"])
def test_pretrained_weights_fit_every_attention_with_the_same_parameters(toy_zoo, attention):
    model = create_model("toy_x2", pretrained=True, attention=attention)
    assert all(torch.equal(t, toy_zoo[name].half().float()) for name, t in model.state_dict().items())


def test_pretrained_settings_that_change_no_parameter_may_differ(toy_zoo):
    model = create_model("toy_x2", pretrained=True, attention_kwargs={"rounds": 5})
    assert (_settings(model, "rounds"), _settings(model, "bucket_size")) == ({5}, {9})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": None}, r"do not fit with attention changed, got unexpected: body\.attention\.0\.embed\.bias"),
        ({"attention_at": [1]}, r"with attention_at changed, got missing: body\.attention\.1.*unexpected: body\.att"),
        ({"attention_kwargs": {"shared_qk": False}}, r"attention_kwargs changed, got missing: .*query\.weight"),
        ({"n_resblocks": 3}, r"n_resblocks changed, got missing: body\.blocks\.2"),
        ({"scale": 3}, r"scale changed, got misshapen: upsampler\.0\.weight"),
        ({"rgb_range": 255}, r"rgb_range changed"),
    ],
)
def test_pretrained_weights_do_not_fit_another_architecture(toy_zoo, arguments, message):
    with pytest.raises(WeightsError, match=message) as caught:
        create_model("toy_x2", pretrained=True, **arguments)
    assert "; drop these arguments, or pretrained=True, or use an attention with the same" in str(caught.value)


@pytest.mark.parametrize("shard_bytes", [2**20, 2**14], ids=["single", "sharded"])
def test_pretrained_weights_that_the_config_does_not_record_are_refused(toy_zoo, tmp_path, shard_bytes):
    folder = tmp_path / "toy_x2"
    write_zoo_folder(folder, toy_zoo, model="toy_x2", config=model_config("toy_x2"), shard_bytes=shard_bytes)
    whole = json.loads((folder / "config.json").read_text())
    used = set(whole["files"])
    assert (len(used) == 1) == (shard_bytes == 2**20)
    for name in used:
        files = {other: facts for other, facts in whole["files"].items() if other != name}
        (folder / "config.json").write_text(json.dumps({**whole, "files": files}))
        with pytest.raises(WeightsError, match=rf"toy_x2/{re.escape(name)} is not recorded in config\.json, expected"):
            create_model("toy_x2", pretrained=True)
        loaded = create_model("toy_x2", checkpoint=folder).state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in toy_zoo.items())


def test_a_folder_of_another_model_is_refused(toy_zoo, tmp_path):
    write_zoo_folder(tmp_path / "toy_x2", toy_zoo, model="other_x2", config={})
    with pytest.raises(WeightsError, match=r"does not hold toy_x2, expected .* model 'toy_x2', got other"):
        create_model("toy_x2", pretrained=True)


def test_without_weights_the_error_names_the_models_that_have_some(toy_zoo):
    with pytest.raises(WeightsError, match=r"no weights for 'edsr_x2', .*; models with weights here: .*toy_x2"):
        create_model("edsr_x2", pretrained=True)
