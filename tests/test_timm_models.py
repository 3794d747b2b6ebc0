"""Every model in timm's registry, and none of timm's touched."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models import _registry
from torch import nn

import sparse_attn.timm_models  # noqa: F401 - registers
from sparse_attn.backbones import models, register_model
from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.factory import create_model, save_pretrained
from sparse_attn.timm_models import register
from sparse_attn.timm_models.sparse_attn_models import default_cfgs
from sparse_attn.weights import write_zoo_folder

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"n_resblocks": 5, "n_feats": 8}
OVERWRITTEN = """
import timm
before = {name: timm.model_entrypoint(name) for name in timm.models._registry._model_entrypoints}
configs = {name: timm.get_pretrained_cfg(name) for name in before}
import sparse_attn, sparse_attn.timm_models
assert len(before) > 1000
assert all(timm.model_entrypoint(name) is function for name, function in before.items())
assert all(timm.get_pretrained_cfg(name) == config for name, config in configs.items())
new = set(timm.models._registry._model_entrypoints) - set(before)
assert new == set(sparse_attn.list_models()), new
"""


@pytest.fixture
def registries(monkeypatch):
    """Both registries, to be restored."""
    for name, value in vars(_registry).items():
        if isinstance(value, dict | set) and not name.startswith("__"):
            monkeypatch.setattr(_registry, name, copy.deepcopy(value))
    monkeypatch.setattr(models, "_entries", dict(models._entries))
    for name, value in list(default_cfgs.items()):
        monkeypatch.setitem(default_cfgs, name, value)


@pytest.fixture
def toy(registries, tmp_path, monkeypatch):
    """A registered toy with weights in a zoo of its own."""
    entry = register_model("toy_x2", models.get("nlsn_x2").builder, scale=2, **SMALL)
    torch.manual_seed(3)
    model = entry.build()
    write_zoo_folder(tmp_path / "toy_x2", model.state_dict(), model="toy_x2", config=entry.full_config())
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(tmp_path))
    register()
    return model


def assert_same(first, second):
    x = torch.rand(1, 3, 11, 13)
    with torch.no_grad():
        assert torch.equal(first.eval()(x), second.eval()(x))


def test_no_name_of_timms_is_overwritten():
    result = subprocess.run([sys.executable, "-c", OVERWRITTEN], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_timm_lists_our_models():
    assert timm.list_models("nlsn*") == [f"{name}_x{s}" for name in ("nlsn_light", "nlsn") for s in (2, 3, 4)]
    assert set(timm.list_models(module="sparse_attn_models")) >= {"edsr_x2", "rcan_x4", "nlsn_x4"}
    assert timm.is_model("nlsn_x4") and not timm.is_model("nlsn_x5")


def test_timm_builds_our_models_with_our_arguments():
    chosen = {"attention": "local_window", "attention_at": [2], "attention_kwargs": {"bucket_size": 25}}
    model = timm.create_model("nlsn_light_x2", **SMALL, **chosen)
    assert {type(block).__name__ for block in model.body.attention.values()} == {"LocalWindowAttention"}
    assert model(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)


def test_pretrained_models_are_those_whose_weights_are_here(toy):
    assert timm.list_models("toy*", pretrained=True) == ["toy_x2"]
    assert timm.is_model_pretrained("toy_x2")
    assert_same(timm.create_model("toy_x2", pretrained=True), toy)
    assert not torch.equal(timm.create_model("toy_x2").head.weight, toy.head.weight)


def test_the_zoos_weights_come_through_timm():
    model = timm.create_model("nlsn_light_x4", pretrained=True)
    assert_same(model, create_model("nlsn_light_x4", pretrained=True))
    assert "nlsn_light_x4" in timm.list_models("nlsn*", pretrained=True)


def test_a_model_without_weights_is_our_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sparse_attn.weights.zoo.zoo_folders", lambda: [tmp_path])
    with pytest.raises(WeightsError, match=r"no weights for 'nlsn_x4', got nothing in .*; models with weights here: "):
        timm.create_model("nlsn_x4", pretrained=True, n_resblocks=1, n_feats=8)


def test_weights_from_elsewhere_in_timms_manner(toy, tmp_path):
    other = create_model("toy_x2")
    path = save_pretrained(other, tmp_path / "other") / "model.safetensors"
    by_file = timm.create_model("toy_x2", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    by_state = timm.create_model("toy_x2", pretrained=True, pretrained_cfg={"state_dict": other.state_dict()})
    after = timm.create_model("toy_x2", checkpoint_path=str(path))
    for model in (by_file, by_state, after):
        assert_same(model, other)
    with pytest.raises(ConfigError, match=r"not fetched from a bare URL, got http://a/b; download them, then pass"):
        timm.create_model("toy_x2", pretrained=True, pretrained_cfg={"url": "http://a/b"})


def test_timm_finds_what_was_saved(tmp_path):
    saved = create_model("edsr_x2", **SMALL)
    save_pretrained(saved, tmp_path)
    assert_same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), saved)
    assert len(timm.create_model(f"local-dir:{tmp_path}").body.blocks) == SMALL["n_resblocks"]
    with pytest.raises(ConfigError, match="does not hold rcan_x2, got edsr_x2"):
        timm.create_model("rcan_x2", pretrained_cfg={"file": str(tmp_path), "source": "local-dir"})


def test_the_data_configuration_says_that_colours_go_in_as_they_are():
    model = timm.create_model("edsr_x2", **SMALL)
    assert timm.data.resolve_model_data_config(model) == {
        "input_size": (3, 48, 48),
        "interpolation": "bicubic",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    assert model.pretrained_cfg["num_classes"] == 0 and model.default_cfg["architecture"] == "edsr_x2"


def test_of_a_model_for_other_colours_too(registries):
    register_model("wide_x2", models.get("edsr_x2").builder, scale=2, rgb_range=255.0, in_chans=1, **SMALL)
    register()
    config = timm.data.resolve_model_data_config(timm.create_model("wide_x2"))
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 48, 48), (0.0,), (1 / 255,))


def test_of_colours_that_are_asked_for_too(tmp_path):
    model = timm.create_model("edsr_x2", **SMALL, in_chans=1, rgb_range=255.0)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 48, 48), (0.0,), (1 / 255,))
    save_pretrained(model, tmp_path)
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}"))
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 48, 48), (0.0,), (1 / 255,))
    overlaid = timm.create_model("edsr_x2", **SMALL, pretrained_cfg_overlay={"input_size": (3, 96, 96)})
    assert overlaid.pretrained_cfg["input_size"] == (3, 96, 96)


@pytest.mark.parametrize("feature_cls", ["getter", "hook"])
def test_features_only(feature_cls):
    arguments = {"attention_at": [0, 3, 5], "features_only": True, "feature_cls": feature_cls}
    net = timm.create_model("nlsn_light_x2", **SMALL, **arguments, out_indices=(0, 2, 4))
    maps = net(torch.rand(2, 3, 5, 7))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 5, 7)] * 3
    assert net.feature_info.channels() == [8, 8, 8] and net.feature_info.reduction() == [1, 1, 1]
    assert net.feature_info.module_name() == ["body.blocks.0", "body.attention.3", "body.attention.5"]


def test_features_of_the_last_blocks_by_default(toy):
    net = timm.create_model("toy_x2", pretrained=True, features_only=True)
    x = torch.rand(1, 3, 5, 7)
    expected = toy.forward_intermediates(x, 4, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(net(x), expected, strict=True))
    short = timm.create_model("edsr_x2", n_resblocks=2, n_feats=8, features_only=True)
    assert len(short(x)) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 10}, ConfigError, "edsr_x2 has no classes, expected num_classes=0, or none; drop num_classes"),
        ({"drop_rate": 0.1}, UnknownNameError, "unknown argument of edsr_x2 'drop_rate'"),
        ({"global_pool": "avg"}, UnknownNameError, "unknown argument of edsr_x2 'global_pool'"),
    ],
)
def test_arguments_that_mean_nothing_here_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        timm.create_model("edsr_x2", **SMALL, **arguments)


def test_a_plain_module_gives_no_features(registries):
    class Plain(nn.Module):
        scale = 2

        def forward(self, x):
            return nn.functional.interpolate(x, scale_factor=2)

    register_model("plain_x2", Plain)
    register()
    assert timm.create_model("plain_x2")(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)
    with pytest.raises(ConfigError, match="plain_x2 gives no features, expected a SlottedNetwork, got Plain"):
        timm.create_model("plain_x2", features_only=True)


def test_registering_again_changes_nothing_and_adds_what_came_since(registries, tmp_path, monkeypatch):
    register()
    before = dict(_registry._model_entrypoints)
    assert register() == []
    entry = register_model("late_x2", models.get("edsr_x2").builder, scale=2, **SMALL)
    assert register() == ["late_x2"]
    assert all(_registry._model_entrypoints[name] is function for name, function in before.items())
    assert timm.list_models("late*", pretrained=True) == []
    write_zoo_folder(tmp_path / "late_x2", entry.build().state_dict(), model="late_x2", config=entry.full_config())
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(tmp_path))
    assert register() == ["late_x2"]
    assert timm.list_models("late*", pretrained=True) == ["late_x2"]


def test_a_name_of_timms_is_refused_before_anything_is_registered(registries):
    theirs = timm.model_entrypoint("resnet50")
    for name in ("aaa_x2", "resnet50", "zzz_x2"):
        register_model(name, models.get("edsr_x2").builder, scale=2, **SMALL)
    with pytest.raises(
        ConfigError, match="timm has other models of these names, got resnet50; register yours under an"
    ):
        register()
    assert timm.model_entrypoint("resnet50") is theirs
    assert not timm.is_model("aaa_x2") and not timm.is_model("zzz_x2")
