from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparse_attn import (
    apply_edits,
    insert_attention,
    load_checkpoint,
    model_edits,
    remove_attention,
    save_checkpoint,
    swap_attention,
)
from sparse_attn.errors import ConfigError
from tests.surgery.networks import UNet

PICTURE = torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def test_an_attention_that_lost_its_hook_is_not_saved_as_if_it_ran(tmp_path: Path) -> None:
    model = UNet().eval()
    insert_attention(model, "up1.1", zero_init=False, bucket_size=16)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    problem = r"up1\.1 no longer runs the attention after it.*got SyncBatchNorm; convert or freeze batch norms first"
    with pytest.raises(ConfigError, match=problem):
        model_edits(converted)
    with pytest.raises(ConfigError, match=problem):
        save_checkpoint(converted, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_name_is_no_network() -> None:
    for edit in (insert_attention, swap_attention, remove_attention):
        with pytest.raises(ConfigError, match=r"not a network, expected a torch\.nn\.Module, got 'resnet50'; build"):
            edit("resnet50", "layer3")  # type: ignore[arg-type]


def test_a_network_compiled_in_place_is_refused() -> None:
    model = UNet()
    model.compile(backend="eager")
    with pytest.raises(
        ConfigError, match=r"the model is compiled already, got UNet\.compile\(\); edit the network first"
    ):
        insert_attention(model, "up1")
    model = UNet()
    model.up1.compile(backend="eager")
    with pytest.raises(ConfigError, match=r"up1 is compiled already"):
        insert_attention(model, "up1")


def test_wrapped_parts_are_refused_and_nothing_is_left_behind() -> None:
    model = UNet()
    model.up1 = torch.compile(model.up1, backend="eager")  # type: ignore[assignment]
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ConfigError, match="up1 is wrapped, got OptimizedModule"):
        insert_attention(model, "up1")
    assert [name for name, _ in model.named_modules()] == names
    model.up1 = nn.DataParallel(UNet().up1)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="up1 is wrapped, got DataParallel"):
        insert_attention(model, "middle")


@pytest.mark.parametrize("average", [AveragedModel, ModelEmaV2, ModelEmaV3])
def test_averaged_weights_are_saved_under_the_names_of_the_network(average: type[nn.Module], tmp_path: Path) -> None:
    model = UNet().eval()
    insert_attention(model, "up1", zero_init=False, bucket_size=16)
    averaged = average(model)
    with pytest.raises(ConfigError, match=f"the model is wrapped, got {average.__name__}"):
        insert_attention(averaged, "**.up2")
    assert model_edits(averaged) == model_edits(model)
    save_checkpoint(averaged, tmp_path / "model.safetensors")
    again = UNet().eval()
    load_checkpoint(again, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(again(PICTURE), model(PICTURE))


@pytest.mark.parametrize(
    ("where", "change", "problem"),
    [
        ("up1.0", {"channels": 12}, r"up1\.0 has other channels, expected 12, got 13"),
        ("up1.2", {"by": "child"}, r"up1\.2 runs no children, got ReLU"),
    ],
)
def test_edits_that_do_not_fit_are_refused(where: str, change: dict[str, object], problem: str) -> None:
    model = UNet()
    insert_attention(model, where)
    edits = [{**edit, **change} for edit in model_edits(model)]
    other = UNet()
    with pytest.raises(ConfigError, match=problem):
        apply_edits(other, edits)
    assert model_edits(other) == []


@pytest.mark.parametrize("where", ["up1.1", "up1", "up2.2"])
def test_a_network_of_two_dtypes_is_loaded_as_it_was(where: str, tmp_path: Path) -> None:
    def mixed() -> UNet:
        model = UNet().bfloat16().eval()
        model.up1[1].float()
        return model

    model, picture = mixed(), PICTURE.bfloat16()
    insert_attention(model, where, zero_init=False, bucket_size=16)
    with torch.no_grad():
        wanted = model(picture)
    save_checkpoint(model, tmp_path / "model.safetensors")
    again = mixed()
    # The second time it is one that has them.
    for _ in range(2):
        load_checkpoint(again, tmp_path / "model.safetensors")
        assert model_edits(again) == model_edits(model)
        with torch.no_grad():
            assert torch.equal(again(picture), wanted)


def test_a_dtype_is_described_where_nothing_around_tells_it() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).bfloat16().eval()
    model[2].float()
    insert_attention(model, nn.ReLU, reduction=1)
    insert_attention(model, ["1", "2"])
    edits = model_edits(model)
    assert [edit.get("dtype") for edit in edits] == [None, None, "bfloat16"]
    plain = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    apply_edits(plain, edits)
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    for wrong in ("int8", ["bfloat16"], None):
        with pytest.raises(ConfigError, match="not an edit"):
            apply_edits(nn.Sequential(nn.ReLU()), [{**edits[0], "dtype": wrong}])
