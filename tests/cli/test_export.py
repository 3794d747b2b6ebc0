"""`sparse-attn export`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparse_attn.factory import create_model
from tests.cli.conftest import Command, files

PROGRAM = ("--format", "torch-export")


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return torch.export.load(file).state_dict


def test_the_trained_model_is_written_and_reported(command: Command, tmp_path: Path) -> None:
    outcome = command("export", "-m", "nlsn_light_x2", *PROGRAM, "-o", "m.pt2")
    assert outcome.code == 0
    assert outcome.out.startswith("m.pt2 (torch-export, ") and "largest difference" in outcome.out
    assert outcome.errors == ["exporting nlsn_light_x2 as torch-export, which takes minutes for a large network"]
    trained = create_model("nlsn_light_x2", pretrained=True).state_dict()
    assert torch.equal(weights_of(tmp_path / "m.pt2")["head.weight"], trained["head.weight"])
    again = command("export", "-m", "nlsn_light_x2", *PROGRAM, "-o", "m.pt2")
    assert again.code == 1
    assert again.errors[-1] == "error: cannot write m.pt2: it exists; pass --overwrite (overwrite=True)"
    assert len(again.errors) == 1, "before anything is read"
    assert command("export", "-m", "nlsn_light_x2", *PROGRAM, "-o", "m.pt2", "--overwrite", "--no-verify").code == 0
    assert files(tmp_path) == {"m.pt2"}


def test_a_checkpoint_or_random_weights(command: Command, zoo: Path, tmp_path: Path) -> None:
    checkpoint = zoo / "nlsn_light_x4" / "model.safetensors"
    model = create_model("nlsn_light_x4", pretrained=True)
    create = ("export", "-m", "local-dir:" + str(zoo / "nlsn_light_x4"), *PROGRAM, "--no-verify")
    assert command(*create, "--checkpoint", checkpoint, "-o", "own.pt2").code == 0
    assert command(*create, "--no-pretrained", "-o", "random.pt2").code == 0
    own, drawn = (weights_of(tmp_path / f"{name}.pt2")["head.weight"] for name in ("own", "random"))
    assert torch.equal(own, model.state_dict()["head.weight"])
    assert own.shape == drawn.shape and not torch.equal(own, drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "m.onnx", "--format", "onx"), "unknown format 'onx'; did you mean onnx?"),
        (("-o", "m.onnx", *PROGRAM), "bad name for torch-export, expected one ending in .pt2, got m.onnx"),
        (("-o", "no/m.onnx"), "cannot write no/m.onnx: there is no folder no; create it first"),
        (("-o", "m.onnx", "-m", "nlsn_lite_x4"), "did you mean nlsn_light_x4"),
        (("-o", "m.onnx", "--no-pretrained"), "no model; name one with --model"),
        (("-o", "m.onnx", "--opset", "3"), "bad opset, expected 18 to "),
    ],
)
def test_bad_input(command: Command, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    outcome = command("export", *arguments)
    assert outcome.code == 1
    assert message in outcome.errors[-1]
    assert files(tmp_path) == set()
