"""The network in a checkpoint: containers, prefixes, hyper-parameters, and files that hold none."""

import argparse

import pytest
import torch
from torch import nn

from sparse_attn.errors import WeightsError
from sparse_attn.weights import load_checkpoint
from sparse_attn.weights.containers import open_checkpoint
from sparse_attn.weights.recognise import recognise
from tests.twins import basicsr_edsr, discriminator, saved, small_edsr


def test_averaged_weights_of_basicsr_are_taken(tmp_path):
    plain, averaged = basicsr_edsr().state_dict(), basicsr_edsr().state_dict()
    path = saved(tmp_path / "net_g.pth", {"params": plain, "params_ema": averaged})
    opened = open_checkpoint(path)
    assert opened.where == ("params_ema",) and opened.left == ("params: 20 tensors, taken instead with --key params",)
    assert torch.equal(opened.weights["conv_first.weight"], averaged["conv_first.weight"])
    assert torch.equal(open_checkpoint(path, key="params").weights["conv_first.weight"], plain["conv_first.weight"])
    with pytest.raises(WeightsError, match="has no 'ema', expected one of params_ema, conv_first, body"):
        open_checkpoint(path, key="ema")


@pytest.mark.parametrize("prefix", ["model.", "net.", "generator.", "net_g.", "model.net.", "model._orig_mod.module."])
def test_lightning(tmp_path, prefix):
    weights = basicsr_edsr().state_dict()
    hyper = {"lr": 1e-4, "net": {"res_scale": 0.5, "img_range": 1.0}, "name": "run"}
    content = {
        "state_dict": {prefix + name: t for name, t in weights.items()},
        "hyper_parameters": hyper,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
    }
    opened = open_checkpoint(saved(tmp_path / "last.ckpt", content))
    assert list(opened.weights) == list(weights)
    assert opened.settings == {"res_scale": 0.5, "rgb_range": 1.0}
    assert opened.where == ("state_dict", *prefix.rstrip(".").split("."))
    found = recognise(opened.weights, settings=opened.settings)
    assert (found.config["res_scale"], found.config["rgb_range"], found.assumed) == (0.5, 1.0, ())
    load_checkpoint(small_edsr(n_resblocks=3, n_feats=6), tmp_path / "last.ckpt")


def test_what_only_training_needs_is_left_out_and_said(tmp_path):
    weights = basicsr_edsr().state_dict()
    beside = {"discriminator.0.weight": torch.zeros(2), "vgg_loss.mean": torch.zeros(3)}
    state = {**{f"generator.module.{name}": t for name, t in weights.items()}, **beside}
    opened = open_checkpoint(saved(tmp_path / "gan.ckpt", {"state_dict": state}))
    assert list(opened.weights) == list(weights)
    assert opened.where == ("state_dict", "generator", "module")
    assert opened.left == ("discriminator.*: 1 tensors", "vgg_loss.*: 1 tensors")
    path = saved(tmp_path / "two.ckpt", {"state_dict": {**state, "denoiser.weight": torch.zeros(1)}})
    with pytest.raises(
        WeightsError, match=r"more than one network, got generator\.\* \(20 tensors\), .*--key generator"
    ):
        open_checkpoint(path)
    assert list(open_checkpoint(path, key="generator").weights) == list(weights)


def test_several_networks_need_a_choice(tmp_path):
    pair = {"generator": basicsr_edsr().state_dict(), "discriminator": discriminator().state_dict()}
    path = saved(tmp_path / "gan.pth", {**pair, "iteration": 3})
    with pytest.raises(WeightsError, match=r"several state dicts, got generator, discriminator; say which: --key gen"):
        open_checkpoint(path)
    assert recognise(open_checkpoint(path, key="generator").weights).family == "edsr"


def test_settings_that_contradict_each_other_are_not_believed(tmp_path):
    hyper = {"a": {"res_scale": 0.1}, "b": {"res_scale": 0.2}, "rgb_range": True, "n_hashes": 2}
    path = saved(tmp_path / "x.ckpt", {"state_dict": basicsr_edsr().state_dict(), "hyper_parameters": hyper})
    assert open_checkpoint(path).settings == {"rounds": 2.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4}]}, "holds the state of an optimizer, not a network"),
        ({"epoch": 3}, "holds no weights, .* got epoch: int"),
        ({}, "holds no weights, .* got nothing"),
        ([torch.zeros(1)], "is not a state dict, expected names to tensors, got list"),
        (
            {"args": argparse.Namespace(x=1)},
            "got an object of argparse.Namespace; objects .* are never unpickled",
        ),
        (nn.Linear(2, 2), "got an object of torch.nn.modules.linear.Linear; "),
    ],
    ids=["optimizer", "no_weights", "empty", "list", "namespace", "module"],
)
def test_files_without_weights_are_refused(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(saved(tmp_path / "x.pt", content))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="got a TorchScript program; "):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page, as a server sends"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04 cut short", "PytorchStreamReader failed"),
        (b"hello there, this is text", "of another format (KeyError)"),
        (b"# notes", "no file of torch.save (Unsupported operand 35)"),
    ],
    ids=["empty", "html", "lfs", "cut", "text", "notes"],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_files_that_are_something_else_are_told_so(tmp_path, content, reason, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"cannot read weights .*damaged or cut short") as caught:
        open_checkpoint(tmp_path / name)
    # What is damaged is told in the words of the format that its name says.
    if name == "x.pth" or reason.startswith(("an ", "a ")):
        assert reason in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_safetensors_are_told_by_their_content(tmp_path):
    from safetensors.torch import save_file

    save_file(basicsr_edsr().state_dict(), tmp_path / "misnamed.pth")
    assert recognise(open_checkpoint(tmp_path / "misnamed.pth").weights).family == "edsr"
