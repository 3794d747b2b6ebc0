"""Written, and run by something else, at sizes the gate does not try: the same picture to 1e-4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_attn.attention import list_attention
from sparse_attn.exporting import ExportReport, export
from sparse_attn.exporting.verify import TOLERANCE
from sparse_attn.factory import create_model
from tests.exporting.support import SETTINGS, SIZES, picture, run_onnx, tiny, tiny_rcan

Written = tuple[nn.Module, ExportReport]


def largest_difference(model: nn.Module, report: ExportReport) -> float:
    worst = 0.0
    for size in SIZES:
        x = picture(size, seed=7)
        with torch.no_grad():
            expected = model(x)
        if report.format == "onnx":
            got = run_onnx(report.file, x)
        elif report.format == "aoti":
            got = torch._inductor.aoti_load_package(str(report.file))(x)
        else:
            got = torch.export.load(report.file).module()(x)
        assert got.shape == expected.shape
        worst = max(worst, float((got - expected).detach().abs().max()))
    return worst


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A network with NLSA, as ONNX; of one round, which is traced in half the time."""
    model = tiny("nlsa", rounds=1)
    return model, export(model, tmp_path_factory.mktemp("onnx") / "nlsa.onnx")


def test_nlsa_runs_in_onnxruntime_at_every_size(written: Written) -> None:
    model, report = written
    assert report.difference is not None and report.difference <= TOLERANCE
    assert largest_difference(model, report) <= TOLERANCE


def test_onnx_names_its_axes_opset_and_input(written: Written) -> None:
    import onnx

    _, report = written
    file = onnx.load(report.file)
    onnx.checker.check_model(file, full_check=True)
    (given,), (made,) = file.graph.input, file.graph.output
    axes = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert (given.name, axes) == ("input", ["batch", 3, "height", "width"])
    assert (made.name, [d.dim_param or d.dim_value for d in made.type.tensor_type.shape.dim]) == (
        "output", ["batch", 3, "2*height", "2*width"],
    )  # fmt: skip
    assert report.opset == file.opset_import[0].version >= 18
    assert {op.domain for op in file.opset_import} == {""}, "no operator that only one runtime knows"
    assert "sparse_attn.input" in {entry.key for entry in file.metadata_props}
    assert [path.name for path in report.file.parent.iterdir()] == ["nlsa.onnx"], "weights are in the file"


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
def test_opsets(opset: int, tmp_path: Path) -> None:
    model = tiny("nlsa")
    report = export(model, tmp_path / "m.onnx", opset=opset)
    assert report.opset == opset
    assert largest_difference(model, report) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
@pytest.mark.parametrize("attention", sorted(set(list_attention()) & set(SETTINGS)))
def test_every_attention(attention: str, kind: str, tmp_path: Path) -> None:
    model = tiny(attention)
    file = tmp_path / ("m.onnx" if kind == "onnx" else "m.pt2")
    assert largest_difference(model, export(model, file, format=kind)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"neighbors": 1}, {"neighbors": 0}, {"boundary": "repeat"}],
    ids=["one", "none", "repeat"],
)
def test_other_settings_of_nlsa(settings: dict[str, object], tmp_path: Path) -> None:
    model = tiny("nlsa", **settings)
    assert largest_difference(model, export(model, tmp_path / "m.onnx")) <= TOLERANCE


@pytest.mark.slow
def test_dense_attention_in_windows(tmp_path: Path) -> None:
    model = tiny("nla", window=(5, 7))
    assert largest_difference(model, export(model, tmp_path / "m.onnx")) <= TOLERANCE


@pytest.mark.slow
def test_rcan(tmp_path: Path) -> None:
    model = tiny_rcan()
    assert largest_difference(model, export(model, tmp_path / "m.onnx")) <= TOLERANCE


@pytest.mark.slow
def test_aoti(tmp_path: Path) -> None:
    model = tiny("nlsa", rounds=1)
    assert largest_difference(model, export(model, tmp_path / "m.pt2", format="aoti")) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("name", ["edsr_baseline_x4", "nlsn_light_x4"])
def test_trained_networks(name: str, half: bool, tmp_path: Path) -> None:
    report = export(create_model(name, pretrained=True), tmp_path / "m.onnx", half=half)
    assert report.difference is not None and report.difference <= (5e-3 if half else TOLERANCE)
