"""`export`: what it refuses, and that no file is left that is wrong, half written, or lost."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparse_attn.attention import configure_attention, use_rotations
from sparse_attn.errors import ConfigError, DataError, UnknownNameError
from sparse_attn.exporting import export, formats
from sparse_attn.exporting.verify import SIZES, TOLERANCE, compare
from tests.exporting.support import SETTINGS, left_in, picture, tiny


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Plain(nn.Module):
    """One convolution: traced in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv(x))


class Branching(nn.Module):
    """Looks at its input: no graph computes it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class EvenOnly(nn.Module):
    """Takes even heights only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], x.shape[2] // 2, 2, x.shape[3]).mean(3)


def wrong_format(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """torch-export files then give `factor` times what they should."""
    right = formats.FORMATS["torch-export"]

    def load(file: Path) -> formats.Run:
        run = right.load(file)
        return lambda x: run(x) * factor

    monkeypatch.setitem(formats.FORMATS, "torch-export", dataclasses.replace(right, load=load))


def test_a_program_runs_at_every_size_and_says_what_it_is(tmp_path: Path) -> None:
    model, file = Plain().train(), tmp_path / "m.pt2"
    report = export(model, file, format="torch-export")
    assert model.training, "the caller's model is left as it was"
    assert left_in(tmp_path) == {"m.pt2"}
    assert (report.file, report.bytes, report.opset) == (file, file.stat().st_size, None)
    assert report.sizes == tuple((b, 3, h, w) for b, h, w in SIZES)
    assert report.difference is not None and report.difference <= 1e-6 and report.ties == 0
    assert str(report).startswith(f"{file} (torch-export, {report.bytes / 1e6:.1f} MB, largest difference ")
    x = picture((1, 1, 23))
    extra = {"metadata.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    torch.testing.assert_close(program(x), model.eval()(x))
    assert json.loads(extra["metadata.json"])["sparse_attn.arithmetic"] == "float32"


def test_half_weights_are_half_the_size(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 5, padding=2), nn.Conv2d(64, 3, 5, padding=2)).eval()
    sizes = {}
    for half in (False, True):
        report = export(model, tmp_path / f"{half}.pt2", format="torch-export", half=half)
        weights = [i for i in zipfile.ZipFile(report.file).infolist() if "/weights/" in i.filename]
        sizes[half] = sum(i.file_size for i in weights if "config" not in i.filename)
        assert report.half is half
    assert 0.4 < sizes[True] / sizes[False] < 0.6
    x = picture((1, 13, 17))
    out = torch.export.load(tmp_path / "True.pt2").module()(x)
    assert out.dtype == torch.float32
    assert 0 < float((out - model(x)).abs().max()) < 1e-2


def test_other_channels(tmp_path: Path) -> None:
    report = export(nn.Conv2d(5, 2, 1), tmp_path / "m.pt2", format="torch-export", example=(1, 5, 8, 8))
    assert {size[1] for size in report.sizes} == {5}


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    file = tmp_path / "m.pt2"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="it exists; pass --overwrite"):
        export(Plain(), file, format="torch-export")
    assert file.read_text() == "mine"
    export(Plain(), file, format="torch-export", overwrite=True)
    assert zipfile.is_zipfile(file)


@pytest.mark.parametrize("model", [Branching(), EvenOnly()], ids=["branching", "even"])
def test_a_model_that_cannot_be_traced_loses_nothing(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "m.pt2"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="cannot be traced for every image size"):
        export(model, file, format="torch-export", overwrite=True)
    assert file.read_text() == "mine" and left_in(tmp_path) == {"m.pt2"}


def test_a_wrong_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_format(monkeypatch, 1.01)
    file = tmp_path / "m.pt2"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="does not compute what the model does"):
        export(Plain(), file, format="torch-export", overwrite=True)
    assert file.read_text() == "mine" and left_in(tmp_path) == {"m.pt2"}
    assert export(Plain(), file, format="torch-export", overwrite=True, tolerance=0.1).difference > TOLERANCE
    report = export(Plain(), file, format="torch-export", overwrite=True, verify=False)
    assert (report.sizes, report.difference) == ((), None)
    assert "not verified" in str(report)


def test_nan_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_format(monkeypatch, float("nan"))
    with pytest.raises(ConfigError, match="does not compute"):
        export(Plain(), tmp_path / "m.pt2", format="torch-export")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("attention", ["nla", "local_window", "random_bucket", "nlsa", "topk"])
def test_the_gate_sees_another_grouping(attention: str) -> None:
    """Each attention, against the same network with another one in its place."""
    width = {"reduction": SETTINGS[attention].get("reduction", 4)}
    model, other = tiny(attention), tiny("nlsa" if attention == "random_bucket" else "random_bucket", **width)
    other.load_state_dict(model.state_dict())
    settings = {"channels": 3, "white": 1.0, "half": False, "tolerance": TOLERANCE}
    assert compare(model, model, **settings).difference == 0
    with pytest.raises(ConfigError, match="does not compute"):
        compare(model, other, **settings)


def test_a_near_tie_is_passed_over_and_reported() -> None:
    model, calls = Plain().eval(), []

    def run(x: Tensor) -> Tensor:
        calls.append(x)
        return model(x) + (1.0 if len(calls) == 1 else 0.0)

    found = compare(model, run, channels=3, white=1.0, half=False, tolerance=TOLERANCE)
    assert (found.ties, found.difference, len(calls)) == (1, 0.0, len(SIZES) + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, "unknown format 'onx'; did you mean onnx?"),
        ({"format": "torch-export"}, "expected one ending in .pt2"),
        ({"path": "nowhere/m.onnx"}, "there is no folder nowhere"),
        ({"path": "folder.onnx"}, "it is a folder; name a file in it"),
        ({"opset": 17}, "bad opset, expected 18 to "),
        ({"opset": 999}, "bad opset, expected 18 to "),
        ({"opset": 18, "format": "aoti", "path": "m.pt2"}, "opset is for ONNX only, got format='aoti'; drop opset"),
        ({"example": (3, 8, 8)}, "four positive integers"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.onnx").mkdir()
    given = {"path": "m.onnx", **options}
    with pytest.raises((ConfigError, UnknownNameError)) as error:
        export(Plain(), **given)
    assert message in str(error.value)
    assert left_in(tmp_path) == {"folder.onnx"}


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ConfigError, match=r'onnxscript is not installed.*pip install "sparse-attn\[export\]"'):
        export(Plain(), tmp_path / "m.onnx")


def test_without_a_compiler_aoti_says_so(tmp_path: Path) -> None:
    from torch._inductor import config

    missing = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        export(Plain(), tmp_path / "m.pt2", format="aoti")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(DataError, match=r"cannot write .*m\.pt2: Permission denied; choose another"):
        export(Plain(), tmp_path / "m.pt2", format="torch-export")


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"meta device"):
        export(nn.Conv2d(3, 3, 1, device="meta"), tmp_path / "m.pt2", format="torch-export")
    model = tiny("nlsa")
    configure_attention(model, rehash="always")
    with pytest.raises(ConfigError, match=r"new groups on every call"):
        export(model, tmp_path / "m.pt2", format="torch-export")
    windows = tiny("nlsa", window=7)
    with pytest.raises(ConfigError, match=r"in windows cannot be exported for every size"):
        export(windows, tmp_path / "m.pt2", format="torch-export")
    fixed = tiny("nlsa")
    with use_rotations(fixed, [torch.randn(2, 2, 4)]), pytest.raises(ConfigError, match=r"rotations"):
        export(fixed, tmp_path / "m.pt2", format="torch-export")
    assert left_in(tmp_path) == set()
