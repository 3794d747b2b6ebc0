"""A short distillation: repeatable, within the attention, kept where it helps."""

from __future__ import annotations

import copy

import torch

from sparse_attn.surgery.convert import convert_attention
from sparse_attn.surgery.distill import imitate
from tests.attention.support import make
from tests.surgery.dense import assert_same, everything, images, network


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
