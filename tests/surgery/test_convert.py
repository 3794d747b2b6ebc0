"""Converting: the numbers of the report are those of modules put side by side, and nothing else changes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn import create_model
from sparse_attn.attention import create_attention
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.surgery.convert import convert_attention
from sparse_attn.surgery.remove import remove_attention
from sparse_attn.surgery.trials import DEFAULTS
from tests.surgery.dense import SMALL, assert_same, everything, images, network, seen_by_dense


def test_the_report_is_of_modules_put_side_by_side() -> None:
    model = network()
    dense = copy.deepcopy(model)
    given, was = seen_by_dense(model)
    before = everything(model)
    report = convert_attention(model, calibrate=images(), **SMALL, queries=500, seed=7)
    assert_same(before, everything(model), besides=("types",))
    assert [layer.name for layer in report.layers] == ["2", "3.1"]
    for index, layer in enumerate(report.layers):
        teacher = dense.get_submodule(layer.name).eval()
        assert [trial.settings for trial in layer.trials] == [
            {"bucket_size": k, "rounds": r} for k in (9, 16) for r in (1, 4)
        ]
        for trial in layer.trials:
            block = create_attention("nlsa", 6, reduction=2, seed=7 + index, **trial.settings).double().eval()
            block.load_state_dict(teacher.state_dict())
            with torch.no_grad():
                errors = [
                    float((block(x) - teacher(x)).norm() / (teacher(x) - x).norm()) for x in given[index]
                ]  # fmt: skip
            assert trial.health.output_error == pytest.approx(sum(errors) / 2, abs=1e-10)
            assert 0 < trial.health.mass_kept < 1
        now = model.get_submodule(layer.name)
        assert type(now) is NonLocalSparseAttention
        assert {name: getattr(now, name) for name in layer.chosen.settings} == layer.chosen.settings
    with torch.no_grad():
        after = [model.eval()(image) for image in images()]
    lost = [a - b for a, b in zip(after, was, strict=True)]
    off, whole = (sum(float(t.square().sum()) for t in tensors) for tensors in (lost, was))
    assert report.output_error == pytest.approx((off / whole) ** 0.5) and report.output_error > 0


def test_it_is_undone() -> None:
    model = network()
    before = everything(model)
    convert_attention(model, calibrate=images(), **SMALL)
    with torch.random.fork_rng():
        assert remove_attention(model) == ["2", "3.1"]
    assert_same(before, everything(model))


@pytest.mark.parametrize(("target", "expected"), [(1e-3, (9, 1)), (0.5, None), (1.0, None)])
def test_the_cheapest_that_keeps_enough(target: float, expected: tuple[int, int] | None) -> None:
    report = convert_attention(network(), calibrate=images(), **SMALL, target_mass=target)
    for layer in report.layers:
        sparse = [trial for trial in layer.trials if trial.health.keys_met <= layer.tokens]
        keeping = [trial for trial in sparse if trial.health.mass_kept >= target]
        assert layer.tokens == (11 * 13 + 9 * 17) / 2 and len(sparse) == 3
        assert layer.enough == bool(keeping)
        if expected:
            assert tuple(layer.chosen.settings.values()) == expected
        for trial in keeping:
            assert layer.chosen.health.keys_met <= trial.health.keys_met
        if not keeping:
            assert layer.chosen.health.mass_kept == max(trial.health.mass_kept for trial in sparse)


@pytest.mark.parametrize("mass", [None, 0.5])
@pytest.mark.parametrize("error", [1e-3, 0.3, 10.0])
def test_the_cheapest_whose_output_is_near_enough(error: float, mass: float | None) -> None:
    report = convert_attention(network(), calibrate=images(), **SMALL, max_error=error, target_mass=mass)
    for layer in report.layers:
        sparse = [trial for trial in layer.trials if trial.health.keys_met <= layer.tokens]
        enough = [t for t in sparse if t.health.output_error <= error and (mass is None or t.health.mass_kept >= mass)]
        assert layer.enough == bool(enough)
        if enough:
            assert layer.chosen.health.keys_met == min(trial.health.keys_met for trial in enough)
        else:
            assert layer.chosen.health.output_error == min(trial.health.output_error for trial in sparse)
    told = f"is off by {100 * error:.2g} % or less; * is off the least"
    told = f"   no sparser setting {'' if mass is None else 'keeps 50.0 % of the weight and '}{told}"
    assert (told in str(report)) == (error < 0.01)


def test_what_costs_as_much_as_dense_attention_is_not_a_way_out() -> None:
    square = torch.randn(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    report = convert_attention(network(), calibrate=square, bucket_size=12, rounds=(1, 4), target_mass=1.0)
    for layer in report.layers:
        once, often = layer.trials
        assert often.health.keys_met == layer.tokens == 144 and often.health.mass_kept > once.health.mass_kept
        assert layer.chosen is once and not layer.enough
    dense = convert_attention(network(), calibrate=square, bucket_size=(12, 144), rounds=1, target_mass=1.0)
    assert all(layer.chosen.settings["bucket_size"] == 144 and layer.enough for layer in dense.layers)
    assert "as many keys" in str(dense) and "as many keys" not in str(report)


@pytest.mark.parametrize("attention", [{}, {"shared_qk": False}, {"normalize_keys": False}, {"res_scale": 0.3}])
@pytest.mark.parametrize("window", [None, 5])
def test_a_bucket_that_holds_everything_changes_nothing(attention: dict[str, Any], window: int | None) -> None:
    model = network(**attention, window=window)
    _, was = seen_by_dense(model)
    report = convert_attention(model, calibrate=images(), bucket_size=256 if window is None else 25, rounds=2)
    assert report.output_error is not None and report.output_error < 1e-10
    assert all(layer.chosen.health.mass_kept == pytest.approx(1) for layer in report.layers)
    assert [model[2].window, model[3][1].window] == [window and (window, window)] * 2
    with torch.no_grad():
        for image, expected in zip(images(), was, strict=True):
            torch.testing.assert_close(model.eval()(image), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("to", "rows"), [("topk", 3), ("local_window", 3), ("random_bucket", 12)])
def test_other_attentions(to: str, rows: int) -> None:
    model = network()
    report = convert_attention(model, to, calibrate=images()[0], where="2")
    (layer,) = report.layers
    assert len(layer.trials) == rows == len(DEFAULTS["bucket_size"]) * (rows // 3)
    assert isinstance(model[3][1], NonLocalAttention) and not isinstance(model[2], NonLocalAttention)
    assert f"2: nla -> {to}, 143 tokens" in str(report)


def test_a_network_of_the_zoo_and_back() -> None:
    """What `create_model` builds with sparse attention is what its dense twin is converted into."""
    small = {"n_resblocks": 2, "n_feats": 8, "attention_at": [0, 1]}
    dense = create_model("nlsn_light_x2", **small, attention="nla").eval()
    sparse = create_model("nlsn_light_x2", **small, attention_kwargs={"bucket_size": 30, "rounds": 2}).eval()
    sparse.load_state_dict(dense.state_dict())
    x = torch.rand(2, 3, 17, 19)
    convert_attention(dense, calibrate=x, bucket_size=30, rounds=2)
    with torch.no_grad():
        torch.testing.assert_close(dense(x), sparse(x))


def test_text_and_data() -> None:
    report = convert_attention(network(), calibrate=images(), **SMALL, target_mass=1.0, distill=1)
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["layers"][1]["trials"][3]["settings"] == {"bucket_size": 16, "rounds": 4}
    assert plain["layers"][0]["distillation"]["steps"] == 1
    lines = str(report).splitlines()
    assert lines[0] == "2: nla -> nlsa, 148 tokens"
    assert lines[1].split() == ["k", "R", "keys", "met", "weight", "kept", "top", "16", "output", "off", "by"]
    assert [line.split()[:2] for line in lines[2:6] if not line.startswith("*")] == [
        ["9", "1"],
        ["16", "1"],
        ["16", "4"],
    ]
    assert sum(line.startswith("*") for line in lines) == 2
    assert "no sparser setting keeps 100.0 % of the weight" in lines[6]
    assert lines[7].startswith("   distilled, 1 steps: output off by ")
    assert lines[-1].startswith("the model's output differs by ")
    beyond = convert_attention(network(), calibrate=images(), bucket_size=16, rounds=8)
    assert "as many keys as dense attention does, or more" in str(beyond) and "no sparser setting" not in str(beyond)


@given(
    bucket=st.integers(1, 60),
    rounds=st.integers(1, 3),
    target=st.floats(0.01, 1.0),
    neighbors=st.integers(0, 2),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
)
@settings(max_examples=15, deadline=None)
def test_any_size_and_setting(bucket: int, rounds: int, target: float, neighbors: int, height: int, width: int) -> None:
    model = network()
    report = convert_attention(
        model,
        calibrate=torch.rand(2, 3, height, width, dtype=torch.float64),
        bucket_size=(bucket, 9),
        rounds=rounds,
        target_mass=target,
        neighbors=neighbors,
    )
    for layer in report.layers:
        assert layer.chosen in layer.trials
        assert not layer.enough or layer.chosen.health.mass_kept >= target - 1e-9
    assert model[2].neighbors == neighbors
    json.dumps(report.as_dict(), allow_nan=False)
