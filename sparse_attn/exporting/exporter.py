"""`export`: a model becomes a file, whole and verified, or an error and no file."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sparse_attn.attention import Attention2d, configure_attention
from sparse_attn.backbones import SlottedNetwork
from sparse_attn.errors import ConfigError, DataError, unknown_name
from sparse_attn.exporting.formats import AXES, FORMATS, Format, check_opset
from sparse_attn.exporting.verify import HALF_TOLERANCE, TOLERANCE, compare


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote.

    Args:
        format: its name.
        file: where it is.
        bytes: its size.
        opset: of ONNX files, else None.
        half: whether weights and arithmetic are float16.
        sizes: (B, C, H, W) of the inputs it was verified with; none without verification.
        difference: from the model's output, as a fraction of white: the largest, with `half` the root mean square.
        ties: inputs passed over in the verification; see `sparse_attn.exporting.verify`.
    """

    format: str
    file: Path
    bytes: int
    opset: int | None
    half: bool
    sizes: tuple[tuple[int, int, int, int], ...] = ()
    difference: float | None = None
    ties: int = 0

    def __str__(self) -> str:
        name = self.format if self.opset is None else f"{self.format}, opset {self.opset}"
        checked = "not verified"
        if self.difference is not None:
            sizes = ", ".join("x".join(map(str, size)) for size in self.sizes)
            kind = "root mean square" if self.half else "largest"
            checked = f"{kind} difference {self.difference:.1e} at {sizes}"
        return f"{self.file} ({name}, {self.bytes / 1e6:.1f} MB, {checked})"


class _Half(nn.Module):
    """A float16 model that takes and gives float32 pictures."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float32 -> float32."""
        return self.model(x.half()).float()


def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: str = "onnx",  # noqa: A002 - the word everyone uses
    half: bool = False,
    opset: int | None = None,
    example: Sequence[int] = (1, 3, 48, 48),
    verify: bool = True,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Writes a model, in eval mode, as a file that runs without this package, for every batch, height and width.

    The file is run at five sizes and compared with the model before it gets its name.

    Args:
        model: any module from (B, C, H, W) to one tensor; it is left as it is.
        path: the file: `.onnx`, or for the others `.pt2`.
        format: `onnx`, `torch-export` or `aoti`: a shared library by AOTInductor, for the model's device only.
        half: float16 weights and arithmetic; input, output, hashing and what is hashed stay float32.
        opset: of ONNX; None is the exporter's own.
        example: (B, C, H, W) to trace with. Only C matters.
        verify: compare.
        tolerance: the largest difference allowed, as a fraction of white; None is 1e-4, with `half` 5e-3 of the root
            mean square.
        overwrite: replace the file if it exists. It is kept where the export fails.

    Raises:
        UnknownNameError: no such format; the message lists close matches.
        ConfigError: a bad argument, a file that exists, something not installed, a model that cannot be traced for
            every size, or a file that gives something else than the model.
        DataError: the file cannot be written.
    """
    path = Path(path)
    chosen = check_target(path, format=format, opset=opset, verify=verify, overwrite=overwrite)
    channels = _check_example(example)
    network = _prepare(model, keep_device=format == "aoti")
    try:
        # In a folder of its own beside the target: some writers add to the name they are given.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            file = Path(folder) / path.name
            written = _write(network, chosen, file, channels=channels, half=half, opset=opset, name=format)
            report = ExportReport(format, path, file.stat().st_size, written, half)
            if verify:
                report = _verify(report, network, chosen, file, channels=channels, tolerance=tolerance)
            os.replace(file, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}", remedy="choose another place with --out (path)"
        ) from error
    return report


def check_target(path: Path, *, format: str, opset: int | None, verify: bool, overwrite: bool) -> Format:  # noqa: A002
    """What can be said of an export before there is a model; the arguments are those of `export`.

    Raises:
        UnknownNameError: no such format.
        ConfigError: a bad argument, a file that exists, or something not installed.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    chosen = FORMATS[format]
    _check_path(path, chosen, format, overwrite=overwrite)
    if opset is not None and format != "onnx":
        raise ConfigError("opset is for ONNX only", got=f"format={format!r}", remedy="drop opset, or export as onnx")
    chosen.check(verify)
    check_opset(opset)
    return chosen


def _check_path(path: Path, chosen: Format, name: str, *, overwrite: bool) -> None:
    if path.suffix.lower() != chosen.suffix:
        raise ConfigError(f"bad name for {name}", expected=f"one ending in {chosen.suffix}", got=str(path))
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}", remedy="create it first")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder", remedy="name a file in it")
    if path.exists() and not overwrite:
        raise ConfigError(f"cannot write {path}: it exists", remedy="pass --overwrite (overwrite=True)")


def _check_example(example: Sequence[int]) -> int:
    """C."""
    if len(example) != 4 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in example):
        raise ConfigError("bad example", expected="four positive integers: B, C, H, W", got=tuple(example))
    return example[1]


def _prepare(model: nn.Module, *, keep_device: bool) -> nn.Module:
    """A float32 copy in eval mode, whose attentions are traced by plain tensor operations.

    Raises:
        ConfigError: a model on the meta device, or one that gives something else on every call.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ConfigError("the model is on the meta device", remedy="build it on a real one")
    network = copy.deepcopy(model).eval().requires_grad_(False).float()
    if not keep_device:
        network = network.cpu()
    blocks = [module for module in network.modules() if isinstance(module, Attention2d)]
    for block in blocks:
        if any(name == "rehash" and getattr(block, name) == "always" for name in block.settings):
            raise ConfigError(
                "an attention that draws new groups on every call cannot be exported",
                got="rehash='always'",
                remedy="configure_attention(model, rehash='train')",
            )
    if blocks:
        configure_attention(network, backend="auto")
    return network


def _halved(network: nn.Module) -> nn.Module:
    """A float16 copy. What is hashed and compared stays float32: rounded, tokens would change groups."""
    network = copy.deepcopy(network).half()
    for block in network.modules():
        if isinstance(block, Attention2d):
            block.embed.float()
            if block.query is not None:
                block.query.float()
    return _Half(network)


def _write(
    network: nn.Module, chosen: Format, file: Path, *, channels: int, half: bool, opset: int | None, name: str
) -> int | None:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    # Distinct sizes, none of them 1, which a tracer would take for a constant.
    example = torch.rand(2, channels, 48, 50, device=device)
    program = _trace(_halved(network) if half else network, example)
    metadata = {
        "sparse_attn.format": name,
        "sparse_attn.input": f"float32, batch x {channels} x height x width, any size from 1x{channels}x1x1",
        "sparse_attn.arithmetic": "float16" if half else "float32",
    }
    return chosen.write(program, example, file, opset, metadata)


def _trace(network: nn.Module, example: Tensor) -> ExportedProgram:
    sizes = {axis: Dim(name, min=1) for axis, name in AXES.items()}
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=(sizes,), strict=False)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError("the model cannot be traced for every image size", got=first) from error


def _verify(
    report: ExportReport, network: nn.Module, chosen: Format, file: Path, *, channels: int, tolerance: float | None
) -> ExportReport:
    allowed = (HALF_TOLERANCE if report.half else TOLERANCE) if tolerance is None else tolerance
    white = network.rgb_range if isinstance(network, SlottedNetwork) else 1.0
    found = compare(network, chosen.load(file), channels=channels, white=white, half=report.half, tolerance=allowed)
    return ExportReport(
        report.format, report.file, report.bytes, report.opset, report.half, found.sizes, found.difference, found.ties
    )
