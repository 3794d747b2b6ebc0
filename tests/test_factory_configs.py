"""A `config.json` from elsewhere that builds nothing, or too much: one clear error, before memory is taken."""

import json

import pytest

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.factory import create_model

SMALL = {"n_resblocks": 2, "n_feats": 8}
NLSN = {**SMALL, "attention_at": [0, 2], "attention_kwargs": {"bucket_size": 9, "rounds": 2}}
HOOKED = {"edit": "insert", "after": "head", "by": "hook", "attention": "nlsa", "channels": 8, "settings": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"n_resblocks": "abc"},
        {"n_resblocks": 2.5},
        {"n_resblocks": 10**6},
        {"n_resblocks": 10**4, "n_feats": 10**4},
        {"n_feats": None},
        {"n_feats": -1},
        {"n_feats": 10**6},
        {"n_feats": 5000, "in_chans": 10**4},
        {"scale": 8192, "n_feats": 5000},
        {"attention_kwargs": {"embed_kernel": 99_999}},
        {"attention_kwargs": {"embed_kernel": 2**70 + 1}},
        {"attention_kwargs": {"rounds": 10**9}},
        {"rgb_range": "255"},
        {"scale": [2]},
        {"attention": {}},
        {"attention": {"a": 1}},
        {"attention_kwargs": [1]},
        {"attention_at": [99]},
        {"self": 1},
    ],
)
def test_a_configuration_that_builds_nothing_is_one_clear_error(tmp_path, changes):
    content = {"model": "nlsn_light_x2", "config": {**NLSN, **changes}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"config.json describes (no|a) model that (can|is too)"):
        create_model(f"local-dir:{tmp_path}")


def test_whose_fault_it_is_that_nothing_is_built(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": "edsr_x2", "config": {**SMALL, "rgb_range": "255"}}))
    with pytest.raises(
        WeightsError, match=r"config.json describes no model that can be built with n_feats changed, got T"
    ):
        create_model(f"local-dir:{tmp_path}", n_feats=12)
    (tmp_path / "config.json").write_text(json.dumps({"model": "edsr_x2", "config": SMALL}))
    with pytest.raises(ConfigError, match=r"unsupported scale, .*, got 5; use"):
        create_model(f"local-dir:{tmp_path}", scale=5)
    with pytest.raises(ConfigError, match=r"bad device"):
        create_model(f"local-dir:{tmp_path}", device="nowhere")


@pytest.mark.parametrize(
    "edits",
    [
        {"a": 1},
        [1],
        [{"edit": "insert"}],
        [{**HOOKED, "channels": 10**9}],
        [{**HOOKED, "settings": {"res_scale": "a"}}],
        [{"edit": "swap", "at": "head", "was": {}, "attention": "nla", "channels": 8, "settings": {}}],
        [{**HOOKED, "settings": {"embed_kernel": 99_999}}],
        [{**HOOKED, "settings": {"rounds": 10**9}}],
    ],
)
def test_edits_that_fit_nothing_are_one_clear_error(tmp_path, edits):
    (tmp_path / "config.json").write_text(json.dumps({"model": "edsr_x2", "config": SMALL, "edits": edits}))
    with pytest.raises(
        WeightsError, match=r"config.json (has bad edits|describes (no model that can be built|a model that is too l))"
    ):
        create_model(f"local-dir:{tmp_path}")
