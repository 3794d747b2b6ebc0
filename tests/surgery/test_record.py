from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparse_attn import apply_edits, insert_attention, load_checkpoint, model_edits, save_checkpoint
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


def test_averaged_weights_are_saved_under_the_names_of_the_network(tmp_path: Path) -> None:
    model = UNet().eval()
    insert_attention(model, "up1", zero_init=False, bucket_size=16)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
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
