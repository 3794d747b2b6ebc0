"""Converting: the numbers of the report are those of modules put side by side, and nothing else changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_attn import create_model
from sparse_attn.attention import Attention2d, create_attention
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.errors import ConfigError, SparseAttnError, UnknownNameError
from sparse_attn.surgery.convert import convert_attention
from sparse_attn.surgery.distill import imitate
from sparse_attn.surgery.remove import remove_attention
from sparse_attn.surgery.trials import DEFAULTS
from tests.attention.support import make

SMALL = {"bucket_size": (9, 16), "rounds": (1, 4)}


def network(**attention: Any) -> nn.Sequential:
    """A CNN of plain modules with BatchNorm and two dense attentions, in training mode."""
    torch.manual_seed(3)
    dense = [make("nla", **attention) for _ in range(2)]
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        dense[0],
        nn.Sequential(nn.ReLU(inplace=True), dense[1]),
        nn.Conv2d(6, 2, 1),
    )
    return model.double()


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 3, *size, dtype=torch.float64, generator=generator) for size in ((11, 13), (9, 17))]


def seen_by_dense(model: nn.Module) -> tuple[list[list[Tensor]], list[Tensor]]:
    """What each dense attention is given in evaluation, image by image, and what the model returns."""
    model, given, out = copy.deepcopy(model).eval(), [], []
    blocks = [module for module in model.modules() if isinstance(module, NonLocalAttention)]
    for image in images():
        row: list[Tensor] = []
        for block in blocks:
            block.register_forward_pre_hook(lambda _module, args, row=row: row.append(args[0].clone()))
        with torch.no_grad():
            out.append(model(image))
        given.append(row[: len(blocks)])
        for block in blocks:
            block._forward_pre_hooks.clear()
    return [list(layer) for layer in zip(*given, strict=True)], out


def everything(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "types": {name: type(module) for name, module in model.named_modules()},
        "random": torch.get_rng_state(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any], *, besides: tuple[str, ...] = ()) -> None:
    assert before["modes"].items() <= after["modes"].items()
    assert torch.equal(before["random"], after["random"])
    if "types" not in besides:
        assert before["types"] == after["types"]
    for name, tensor in before["state"].items():
        if not name.startswith(besides):
            assert torch.equal(tensor, after["state"][name]), name


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
    assert "more keys than dense attention" in str(beyond) and "no sparser setting" not in str(beyond)


def test_distillation_helps_is_repeatable_and_stays_within() -> None:
    models = [network(), network(), network()]
    before = everything(models[0])
    wanted = {"calibrate": images(), "bucket_size": 9, "rounds": 1}
    reports = [convert_attention(model, **wanted, distill=30, lr=1e-2) for model in models[:2]]
    plain = convert_attention(models[2], **wanted)
    assert reports[0].as_dict() == reports[1].as_dict()
    after = everything(models[0])
    assert_same(before, after, besides=("types", "2.", "3.1."))
    assert any(not torch.equal(tensor, before["state"][name]) for name, tensor in after["state"].items())
    for layer in reports[0].layers:
        done = layer.distillation
        assert done is not None and done.kept and done.after < 0.8 * done.before
    assert reports[0].output_error < plain.output_error
    for model in models[:2]:
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_what_makes_it_worse_is_not_kept() -> None:
    model = network()
    before = everything(model)
    report = convert_attention(model, calibrate=images(), bucket_size=9, rounds=1, distill=2, lr=10.0)
    assert [layer.distillation.kept for layer in report.layers] == [False, False]
    assert_same(before, everything(model), besides=("types",))
    assert "the weights were left as they were" in str(report)


def test_imitation_of_itself() -> None:
    block = make("nla").double().eval()
    twin = copy.deepcopy(block)
    done = imitate(twin, block, [torch.randn(1, 6, 5, 7, dtype=torch.float64)], steps=1, lr=1e-3, seed=0)
    assert done.before == 0 and not done.kept
    for name, tensor in block.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor)


def test_half_precision_is_distilled_in_float32() -> None:
    model = network().bfloat16()
    report = convert_attention(
        model, calibrate=[image.bfloat16() for image in images()], bucket_size=9, rounds=1, distill=20
    )
    assert all(layer.distillation.kept for layer in report.layers)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}


class Particular(nn.Module):
    """Works with dense attention only, which shows when it is run after the exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.idle = make("nla"), make("nla")

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.first, NonLocalAttention):
            raise ValueError("not what I was built with")
        return self.first(x)


REFUSALS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], type[Exception], str]] = {
    "no dense one": (lambda: nn.Sequential(make("nlsa")), {}, ConfigError, "no dense attention"),
    "the model itself": (lambda: make("nla"), {}, ConfigError, "no dense attention"),
    "no match": (network, {"where": "body.*"}, ConfigError, "no module matches"),
    "to dense": (network, {"to": "nla"}, ConfigError, "is dense"),
    "to nowhere": (network, {"to": "nlsb"}, UnknownNameError, "nlsa"),
    "windows": (lambda: network(window=5), {"to": "topk"}, ConfigError, "within windows"),
    "no rounds": (network, {"to": "topk", "rounds": 2}, UnknownNameError, "rounds"),
    "bad rounds": (network, {"rounds": (1, 0)}, ConfigError, "rounds"),
    "no bucket": (network, {"bucket_size": ()}, ConfigError, "no bucket_size to measure"),
    "target": (network, {"target_mass": 90}, ConfigError, "target_mass"),
    "steps": (network, {"distill": -1}, ConfigError, "distill"),
    "rate": (network, {"lr": 0}, ConfigError, "bad lr"),
    "queries": (network, {"queries": 0}, ConfigError, "queries"),
    "images": (network, {"calibrate": []}, ConfigError, "no image"),
    "setting": (network, {"neighbours": 1}, UnknownNameError, "neighbors"),
    "width": (network, {"reduction": 3}, ConfigError, "cannot take over the weights"),
    "unused": (Particular, {"where": "idle", "calibrate": torch.rand(1, 6, 5, 7)}, ConfigError, "idle was not called"),
    "afterwards": (Particular, {"where": "first", "calibrate": torch.rand(1, 6, 5, 7)}, ValueError, "built with"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_all_or_nothing(case: str) -> None:
    build, wanted, error, message = REFUSALS[case]
    model = build()
    attentions = [module for module in model.modules() if isinstance(module, Attention2d)]
    before = everything(model)
    with pytest.raises(error, match=message) as raised:
        convert_attention(model, **{"calibrate": images(), **SMALL, **wanted} if case not in ("windows", "no rounds")
                          else {"calibrate": images(), **wanted})  # fmt: skip
    assert isinstance(raised.value, SparseAttnError) or case == "afterwards"
    assert_same(before, everything(model))
    assert attentions == [module for module in model.modules() if isinstance(module, Attention2d)]


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
