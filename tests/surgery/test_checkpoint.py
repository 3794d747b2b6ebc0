from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sparse_attn import configure_attention, create_attention
from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.surgery import (
    apply_edits,
    insert_attention,
    load_checkpoint,
    model_edits,
    remove_attention,
    save_checkpoint,
    swap_attention,
)
from tests.surgery.networks import NonLocal2d, UNet, WithBlock, shaken

PICTURE = torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))


class Both(nn.Module):
    """A U-Net and a non-local block."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet()
        self.tail = WithBlock(NonLocal2d(24, 8), 24)
        self.slot = create_attention("nla", 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slot(self.tail(self.unet(x)[:, :3]))


def edited() -> Both:
    model = Both()
    insert_attention(model, ["unet.up*", "unet.middle.0"], "nlsa", zero_init=False, rounds=2, bucket_size=5, window=8)
    swap_attention(model, "slot", "nlsa", bucket_size=7)
    swap_attention(model, "tail", "topk", bucket_size=9)
    shaken(model)
    return model


def test_edits_are_json_and_made_again() -> None:
    model = edited()
    edits = model_edits(model)
    assert json.loads(json.dumps(edits)) == edits
    assert [(edit["edit"], edit.get("after", edit.get("at"))) for edit in edits] == [
        ("insert", "unet.middle.0"),
        ("insert", "unet.up2"),
        ("insert", "unet.up1"),
        ("swap", "tail.block"),
        ("swap", "slot"),
    ]
    assert [edit["by"] for edit in edits[:3]] == ["hook", "child", "child"]
    assert edits[0]["settings"]["window"] == [8, 8] and "backend" not in edits[0]["settings"]
    assert edits[3]["was"] == {"type": "NonLocal2d"} and edits[4]["was"]["attention"] == "nla"
    again = Both().eval()
    apply_edits(again, edits)
    assert model_edits(again) == edits
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(PICTURE), model(PICTURE))
    remove_attention(again, ["unet", "slot"])
    assert [edit["edit"] for edit in model_edits(again)] == ["swap"]


def test_present_settings_are_described() -> None:
    model = UNet()
    insert_attention(model, "up1", rounds=2)
    configure_attention(model, rounds=3, seed=11, backend="eager")
    (edit,) = model_edits(model)
    assert (edit["settings"]["rounds"], edit["settings"]["seed"]) == (3, 11)


def _changed(edits: list[dict[str, Any]], index: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**edit, **(changes if i == index else {})} for i, edit in enumerate(edits)]


@pytest.mark.parametrize(
    ("index", "changes", "problem"),
    [
        (1, {"after": "unet.up3"}, "the edits do not fit: Both has no such module, got unet.up3"),
        (1, {"after": "unet.up1"}, "would be edited twice there, got unet.up1"),
        (1, {"after": "slot"}, "slot is an attention itself|would be edited twice"),
        (4, {"at": "unet.down1"}, "unet.down1 is no attention, got Sequential"),
        (4, {"channels": 25}, "slot has other channels, expected 25, got 24"),
        (0, {"edit": "explode"}, "not an edit, expected what model_edits returns"),
        (0, {"by": "magic"}, "not an edit"),
        (0, {"channels": "many"}, "not an edit"),
    ],
)
def test_edits_that_do_not_fit_change_nothing(index: int, changes: dict[str, Any], problem: str) -> None:
    model = Both()
    names = list(model.state_dict())
    with pytest.raises(ConfigError, match=problem):
        apply_edits(model, _changed(model_edits(edited()), index, **changes))
    assert list(model.state_dict()) == names
    assert model_edits(model) == []


def test_edits_of_another_version() -> None:
    edits = model_edits(edited())
    with pytest.raises(UnknownNameError, match="unknown attention 'nlsb'"):
        apply_edits(Both(), _changed(edits, 0, attention="nlsb"))
    with pytest.raises(UnknownNameError, match="unknown attention"):
        apply_edits(Both(), _changed(edits, 0, attention=["nlsa"]))
    with pytest.raises(UnknownNameError, match="wings"):
        apply_edits(Both(), _changed(edits, 0, settings={"wings": 2}))
    model = edited()
    with pytest.raises(ConfigError, match="followed by an attention already"):
        apply_edits(model, edits[:1])


def test_round_trip(tmp_path: Path) -> None:
    model = edited()
    path = tmp_path / "new" / "model.safetensors"
    save_checkpoint(model, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["sparse_attn.edits"]) == model_edits(model)
    wanted = model(PICTURE)
    assert wanted.isfinite().all()
    for given in (path, str(path), path.parent):
        fresh = Both().eval()
        load_checkpoint(fresh, given)
        assert torch.equal(fresh(PICTURE), wanted)
    # One that has them already is loaded as it is, and may be configured otherwise.
    configure_attention(fresh, bucket_size=400)
    load_checkpoint(fresh, path)
    assert fresh.slot.bucket_size == 400


def test_plain_networks_are_saved_and_loaded_as_ever(tmp_path: Path) -> None:
    model = UNet()
    save_checkpoint(model, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    other = UNet()
    load_checkpoint(other, tmp_path / "a.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    other = UNet()
    load_checkpoint(other, model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    insert_attention(other, "up1")
    with pytest.raises(WeightsError, match=r"missing: up1\.attention_after"):
        load_checkpoint(other, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected: up1\.attention_after"):
        load_checkpoint(model, other.state_dict())
    with pytest.raises(WeightsError, match="no weights at"):
        load_checkpoint(model, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:999])
    with pytest.raises(WeightsError, match="cannot read weights"):
        load_checkpoint(model, tmp_path / "c.safetensors")


def test_other_edits_are_an_error(tmp_path: Path) -> None:
    model = UNet()
    insert_attention(model, "up1")
    save_checkpoint(model, tmp_path / "a.safetensors")
    for where, settings in (("up2", {}), ("up1", {"normalize_keys": False})):
        other = UNet()
        insert_attention(other, where, **settings)
        state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(WeightsError, match="of a network with other attentions, expected nlsa at up1, got nlsa at"):
            load_checkpoint(other, tmp_path / "a.safetensors")
        assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


def test_a_checkpoint_that_does_not_fit_undoes_the_edits(tmp_path: Path) -> None:
    model = edited()
    model.tail.conv = nn.Conv2d(3, 24, 5, padding=2)
    save_checkpoint(model, tmp_path / "a.safetensors")
    other = Both()
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    modules = list(other.modules())
    with pytest.raises(WeightsError, match=r"tail\.conv\.weight is \(24, 3, 5, 5\)"):
        load_checkpoint(other, tmp_path / "a.safetensors")
    assert all(a is b for a, b in zip(other.modules(), modules, strict=True))
    assert not any(module._forward_hooks for module in other.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    model = UNet().eval()
    insert_attention(model, "up1", zero_init=False)
    compiled: Any = torch.compile(model, backend="eager")
    save_checkpoint(compiled, tmp_path / "a.safetensors")
    assert model_edits(compiled) == model_edits(model)
    fresh = UNet().eval()
    load_checkpoint(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh(PICTURE), model(PICTURE))
    load_checkpoint(compiled, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="the model is wrapped"):
        load_checkpoint(nn.DataParallel(UNet()), tmp_path / "a.safetensors")


def test_tied_weights_and_dtypes(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]).to(torch.bfloat16)
    model[1].weight = model[0].weight
    save_checkpoint(model, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.get_tensor("1.weight").dtype == torch.bfloat16
        assert file.get_tensor("2.num_batches_tracked").dtype == torch.int64
    load_checkpoint(model, tmp_path / "a.safetensors")


def test_saving_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(UNet(), path)
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(UNet(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_saved_or_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a name ending in \.safetensors, got .*a\.pt"):
        save_checkpoint(UNet(), tmp_path / "a.pt")
    with torch.device("meta"):
        model = UNet()
    with pytest.raises(WeightsError, match="the model is on the meta device"):
        save_checkpoint(model, tmp_path / "a.safetensors")
    path = tmp_path / "b.safetensors"
    for text in ("{", "7"):
        save_file({"weight": torch.zeros(1)}, path, metadata={"sparse_attn.edits": text})
        with pytest.raises(WeightsError, match="has unreadable edits"):
            load_checkpoint(UNet(), path)
    save_file({"weight": torch.zeros(1)}, path, metadata={"sparse_attn.edits": '[{"edit": "insert"}, 7]'})
    for other in (UNet(), edited()):
        with pytest.raises(ConfigError, match="not an edit, expected what model_edits returns"):
            load_checkpoint(other, path)


def test_an_attention_that_was_moved_is_not_described() -> None:
    model = UNet()
    insert_attention(model, "up1")
    moved = nn.Sequential(*model.up1.children())
    with pytest.raises(ConfigError, match="the edit of 3 cannot be described"):
        model_edits(moved)
