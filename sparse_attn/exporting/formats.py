"""The file formats: how a traced model is written, and how the file is run again to see that it is right."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from sparse_attn.errors import ConfigError

Run = Callable[[Tensor], Tensor]
AXES = {0: "batch", 2: "height", 3: "width"}
_FIRST_OPSET = 18


@dataclass(frozen=True)
class Format:
    """One file format.

    Args:
        suffix: of its files.
        check: raises what keeps this machine from writing it, given whether the file will be verified.
        write: takes the program, an example input, the file, the opset and the metadata; returns the opset.
        load: takes the file, returns a function from (B, C, H, W) to the model's output.
    """

    suffix: str
    check: Callable[[bool], None]
    write: Callable[[ExportedProgram, Tensor, Path, int | None, Mapping[str, str]], int | None]
    load: Callable[[Path], Run]


def check_opset(opset: int | None) -> None:
    """Raises what is wrong with an ONNX opset.

    Raises:
        ConfigError: it is older than 18, or newer than the installed onnx.
    """
    if opset is None:
        return
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not _FIRST_OPSET <= opset <= newest:
        raise ConfigError("bad opset", expected=f"{_FIRST_OPSET} to {newest}", got=repr(opset))


def _need_onnx(verify: bool) -> None:  # noqa: FBT001 - the signature of all formats
    needed = ["onnx", "onnxscript", *(["onnxruntime"] if verify else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} is not installed",
            expected="what ONNX files are written and verified with",
            remedy='pip install "sparse-attn[export]"',
        )


def _write_onnx(
    program: ExportedProgram, example: Tensor, file: Path, opset: int | None, metadata: Mapping[str, str]
) -> int | None:
    written = torch.onnx.export(
        program,
        (example,),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=(AXES,),
    )
    if written is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    written.model.metadata_props.update(metadata)
    # Without `external_data` the weights are in the file itself, so that it is one file to move about.
    written.save(file, external_data=False)
    return written.model.opset_imports[""]


def _load_onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # What goes wrong is raised; its own log on stderr would say it again.
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.cpu().numpy()})[0])


def _write_program(
    program: ExportedProgram, example: Tensor, file: Path, opset: int | None, metadata: Mapping[str, str]
) -> None:
    del example, opset
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(dict(metadata))})


def _load_program(file: Path) -> Run:
    return torch.export.load(file).module()


def _need_compiler(verify: bool) -> None:  # noqa: FBT001
    del verify
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "no C++ compiler to build an AOTInductor package with", remedy="install g++, or name another one in CXX"
        ) from error


def _write_package(
    program: ExportedProgram, example: Tensor, file: Path, opset: int | None, metadata: Mapping[str, str]
) -> None:
    del example, opset
    options = {"aot_inductor.metadata": dict(metadata)}
    torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def _load_package(file: Path) -> Run:
    return torch._inductor.aoti_load_package(str(file))


def _nothing_needed(verify: bool) -> None:  # noqa: FBT001
    del verify


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", _need_onnx, _write_onnx, _load_onnx),
    "torch-export": Format(".pt2", _nothing_needed, _write_program, _load_program),
    "aoti": Format(".pt2", _need_compiler, _write_package, _load_package),
}
