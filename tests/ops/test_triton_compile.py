"""Every tile that tuning offers, compiled without a GPU for sm_80 and sm_90: no spills, and shared memory suffices."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 9),
    reason="the tiles were chosen with the ptxas of Triton 3.9, an older one allocates other registers",
)

ROOT = Path(__file__).resolve().parent.parent.parent
# What one program may have: 163 and 227 KiB.
SHARED = {80: 163 * 1024, 90: 227 * 1024}
NUMBERS = {"tokens", "size", "circle", "rounds", "orders", "parts", "case", "rows"}
FLOATS = {"log_sum", "log_sums", "mean"}
# D and C: of 4 widths of block with reduction 4, of two without, of one with 2.
WIDTHS = [(16, 64), (32, 128), (64, 256), (128, 512), (64, 64), (128, 128), (128, 256)]


def _signature(kernel: Any, element: str, constants: dict[str, Any]) -> tuple[dict[str, str], dict[Any, Any]]:
    """The types of a kernel's arguments, and that its pointers are aligned as PyTorch's are."""
    types, aligned = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            types[name] = "constexpr"
        elif name in NUMBERS:
            types[name] = "i32"
        else:
            whole = name in FLOATS or (name == "grad" and kernel.__name__ == "score_grad_kernel")
            types[name] = "*i64" if name == "order" else "*fp32" if whole else f"*{element}"
            aligned[(index,)] = [["tt.divisibility", 16]]
    return types, aligned


def _compile(kernel: Any, chip: int, element: str, constants: dict[str, Any], warps: int, stages: int) -> list[int]:
    """Registers a thread, bytes spilled, and bytes of shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types, aligned = _signature(kernel, element, constants)
    source = ASTSource(kernel, types, constants, aligned)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    with contextlib.redirect_stdout(io.StringIO()) as log:
        compiled = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    assert found is not None and registers is not None, log.getvalue()
    return [int(registers[1]), int(found[1]) + int(found[2]), compiled.metadata.shared]


def report(chip: int, products: str, width: int, wide: int, most: int) -> None:
    """Prints, as JSON, a line for each kernel compiled with each of the first `most` tiles offered."""
    from sparse_attn.ops.backends import triton_grad_kernels, triton_kernels, triton_launch, triton_tuning

    element = "bf16" if products == "half" else "fp32"
    constants = {
        "D": width, "C": wide, "BLOCK_D": triton_launch.block(width), "NEIGHBORS": 2,
        "PRECISION": "tf32" if products == "tf32" else "ieee", "UPCAST": False,
    }  # fmt: skip
    block = triton_launch.block(wide)
    by_row = {"C": wide, "BLOCK_C": block, "BLOCK_M": 4096 // block}
    for kernel in (triton_kernels.merge_kernel, triton_grad_kernels.mean_kernel):
        sys.stdout.write(json.dumps([kernel.__name__, [], _compile(kernel, chip, element, by_row, 4, 3)]) + "\n")
    for name, module, slice_ in (
        ("forward", triton_kernels, min(block, triton_launch.MAX_SLICE)),
        ("score_grad", triton_grad_kernels, triton_launch.depth(wide, exact=products != "half")),
        ("value_grad", triton_grad_kernels, min(block, triton_launch.MAX_SLICE)),
    ):
        kernel = getattr(module, f"{name}_kernel").fn
        for tile in triton_tuning.tiles(name, products, divmod(chip, 10), (width, wide))[:most]:
            sizes = {"BLOCK_C": slice_, "BLOCK_M": tile.rows, "BLOCK_N": tile.columns}
            for of_keys in (False, True) if name == "score_grad" else (False,):
                given = {**constants, **sizes, "OF_KEYS": of_keys}
                result = _compile(kernel, chip, element, given, tile.warps, tile.stages)
                sys.stdout.write(json.dumps([name, [*tile[:4], of_keys], result]) + "\n")


def _check(folder: Path, chip: int, products: str, width: int, wide: int, most: int) -> None:
    """In a process of its own: in this one, kernels are the interpreter's."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "TRITON_CACHE_DIR": str(folder), "TRITON_DUMP_PTXAS_LOG": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    code = f"from tests.ops.test_triton_compile import report; report({chip}, {products!r}, {width}, {wide}, {most})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == {"merge_kernel", "mean_kernel", "forward", "score_grad", "value_grad"}
    for name, tile, (registers, spilled, shared) in lines:
        assert spilled == 0, f"{name} {tile} spills {spilled} bytes with {registers} registers"
        assert shared <= SHARED[chip], f"{name} {tile} needs {shared} bytes of shared memory"


@pytest.mark.parametrize("chip", [80, 90])
def test_first_tiles_compile_without_spills(chip: int, tmp_path: Path) -> None:
    """Blocks of 256 channels in bfloat16."""
    _check(tmp_path, chip, "half", 64, 256, most=1)


@pytest.mark.slow
@pytest.mark.parametrize("widths", WIDTHS, ids="{0[0]}-{0[1]}".format)
@pytest.mark.parametrize("products", ["half", "tf32", "ieee"])
@pytest.mark.parametrize("chip", [80, 90])
def test_all_tiles_compile_without_spills(chip: int, products: str, widths: tuple[int, int], tmp_path: Path) -> None:
    _check(tmp_path, chip, products, *widths, most=9)
