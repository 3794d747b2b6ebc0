from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_attn import Attention2d
from sparse_attn.surgery import insert_attention, load_checkpoint, model_edits, remove_attention, save_checkpoint
from tests.surgery.networks import SETTINGS, WHERE, network

PICTURES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
QUICK = ("unet", "torchvision.resnet18")
ALL = [pytest.param(name, marks=[pytest.mark.slow] if name == "torchvision.resnet50" else []) for name in WHERE]
LIGHT = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in WHERE]


@pytest.mark.parametrize("name", ALL)
def test_output_is_the_same_until_training_and_differs_after(name: str) -> None:
    model = network(name)
    with torch.no_grad():
        before = model(PICTURES)
    done = insert_attention(model, WHERE[name], "nlsa", **SETTINGS)
    assert done and all(one.calls == 1 for one in done)
    with torch.no_grad():
        assert torch.equal(model(PICTURES), before)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    blocks = [module for module in model.modules() if isinstance(module, Attention2d)]
    assert len(blocks) == len(done)
    for step in range(2):
        optimizer.zero_grad()
        model(PICTURES).square().mean().backward()
        # A zero value projection passes nothing on to the embedding in the first step.
        for block in blocks:
            trained = block.parameters() if step else block.value.parameters()
            assert all(p.grad is not None and bool(p.grad.any()) for p in trained)
        optimizer.step()
    assert all(bool(block.value.weight.any()) for block in blocks)
    with torch.no_grad():
        assert not torch.equal(model.eval()(PICTURES), before)


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_and_undone(name: str, tmp_path: Path) -> None:
    model = network(name)
    names, modules = list(model.state_dict()), list(model.modules())
    with torch.no_grad():
        before = model(PICTURES)
    insert_attention(model, WHERE[name], "nlsa", zero_init=False, **SETTINGS)
    with torch.no_grad():
        after = model(PICTURES)
    assert not torch.equal(after, before)
    assert set(names) < set(model.state_dict())
    save_checkpoint(model, tmp_path / "a.safetensors")
    again = network(name)
    load_checkpoint(again, tmp_path / "a.safetensors")
    assert model_edits(again) == model_edits(model)
    with torch.no_grad():
        assert torch.equal(again(PICTURES), after)
    remove_attention(model)
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    with torch.no_grad():
        assert torch.equal(model(PICTURES), before)


@pytest.mark.parametrize("form", ["channels_last", "bf16"])
@pytest.mark.parametrize("name", LIGHT)
def test_output_is_the_same_in_other_layouts_and_dtypes(name: str, form: str) -> None:
    model, x = network(name), PICTURES
    if form == "bf16":
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    else:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        before = model(x)
        insert_attention(model, WHERE[name], "nlsa", **SETTINGS)
        assert torch.equal(model(x), before)
    floating = {p.dtype for p in model.parameters()}
    assert len(floating) == 1


@pytest.mark.parametrize("name", LIGHT)
def test_copies_and_pickles(name: str) -> None:
    model = network(name)
    insert_attention(model, WHERE[name], "nlsa", zero_init=False, **SETTINGS)
    with torch.no_grad():
        wanted = model(PICTURES)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert model_edits(other) == model_edits(model)
            assert torch.equal(other(PICTURES), wanted)
            remove_attention(other)
            assert not torch.equal(other(PICTURES), wanted)


@pytest.mark.parametrize("name", LIGHT)
def test_compiles_without_a_graph_break(name: str) -> None:
    model = network(name)
    insert_attention(model, WHERE[name], "nlsa", zero_init=False, **SETTINGS)
    torch.compiler.reset()
    with torch.no_grad():
        wanted = model(PICTURES)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(PICTURES), wanted)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    model = network("unet")
    insert_attention(model, WHERE["unet"], "nla", zero_init=False)
    torch.compiler.reset()
    with torch.no_grad():
        wanted = model(PICTURES)
        got = torch.compile(model, fullgraph=True)(PICTURES)
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_network_cut_up_takes_its_attentions_along() -> None:
    model = network("torchvision.resnet18")
    insert_attention(model, ["layer1", "layer2.*"], "nlsa", zero_init=False, **SETTINGS)
    features = nn.Sequential(*list(model.children())[:-2])
    assert [edit["after"] for edit in model_edits(features)] == ["4", "5.0", "5.1"]
    with torch.no_grad():
        pooled = model.avgpool(features(PICTURES)).flatten(1)
        assert torch.equal(model.fc(pooled), model(PICTURES))
