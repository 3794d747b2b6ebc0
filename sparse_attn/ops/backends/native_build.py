"""Compiles the C++ in `cpp` where it is to run, once for each version of PyTorch, into the user's cache."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from sparse_attn.errors import BuildError

SOURCES = Path(__file__).with_name("cpp")
COMPILERS = ("c++", "g++", "clang++")
_FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-fopenmp", "-DAT_PARALLEL_OPENMP=1"),
    # What oneDNN's products need as well; those of bf16 are for processors that multiply in it, see `product_dtype`.
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mavx512bf16", "-mprefer-vector-width=512"),
    # Scores are rounded before something is subtracted from them, in both passes alike.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
_SECONDS = 600
_log = logging.getLogger("sparse_attn")


def _flags() -> list[str]:
    return [*_FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]


def library() -> Path:
    """The compiled file, which may not be there: named after all that it depends on.

    It lies in `$SPARSE_ATTN_CACHE/native`, or in `sparse_attn/native` in the user's cache folder.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparse_attn"
    told = hashlib.sha256(" ".join([torch.__version__, *_flags()]).encode())
    for file in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        told.update(file.read_bytes())
    return Path(os.environ.get("SPARSE_ATTN_CACHE", default)) / "native" / f"{told.hexdigest()[:16]}.so"


def unsupported() -> str | None:
    """Why the native backend cannot run on this machine, compiler or not; None if it can."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "it needs Linux on x86-64"
    capability = torch.backends.cpu.get_cpu_capability()
    return None if capability == "AVX512" else f"it needs AVX-512, PyTorch finds {capability}"


def _compiler() -> list[str]:
    """`$CXX`, or the first of `COMPILERS` on the path.

    Raises:
        BuildError: there is none.
    """
    asked = shlex.split(os.environ.get("CXX", ""))
    for name in asked[:1] or COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return [found, *asked[1:]]
    raise BuildError(
        "no C++ compiler to build the native backend with",
        expected=f"{asked[0] if asked else ' or '.join(COMPILERS)} on the path",
        remedy="install one (on Debian and Ubuntu: apt install g++), or name one in CXX",
    )


def build_native() -> Path:
    """Compiles the native CPU backend, if that is not done yet; takes about 15 seconds.

    Once it is there, `backend="auto"` takes it for sparse attention on the CPU. It is made for the installed PyTorch;
    another version needs another build.

    Returns:
        The compiled file.

    Raises:
        BuildError: this machine cannot run it, there is no C++ compiler, or compiling failed.
    """
    reason = unsupported()
    if reason is not None:
        raise BuildError(f"the native backend cannot be built: {reason}", remedy="backend='auto' does without it")
    target = library()
    if not target.is_file():
        compiler = _compiler()
        _log.info("compiling the native backend with %s, once", compiler[0])
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                made = Path(folder) / "native.so"
                _compile(compiler, made)
                made.replace(target)
        except OSError as error:
            raise BuildError(
                f"the native backend cannot be written to {target.parent}: {error.strerror or error}",
                remedy="name a folder that can be in SPARSE_ATTN_CACHE",
            ) from error
    _missing.cache_clear()
    return target


def _compile(compiler: list[str], made: Path) -> None:
    root = Path(torch.__file__).parent
    includes = [f"-isystem{root / 'include'}", f"-isystem{root / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10"]
    command = [*compiler, *_flags(), *includes, str(SOURCES / "operators.cpp"), "-o", str(made), *libraries]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{compiler[0]} did not compile the native backend in {_SECONDS} s") from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise BuildError(
            f"{compiler[0]} cannot compile the native backend",
            got="; ".join(complaints[:3]) or f"exit code {done.returncode}",
            remedy="a compiler of C++20 with OpenMP is needed, as g++ 11 or newer; CXX names another",
        )


def missing(build_it: bool) -> str | None:
    """Why the native backend is not there, or None: then it is loaded.

    Args:
        build_it: compile it, if that is what is missing.
    """
    return _missing(build_it)


@functools.cache
def _missing(build_it: bool) -> str | None:
    reason = unsupported()
    if reason is not None:
        return reason
    try:
        target = build_native() if build_it else library()
        if not target.is_file():
            return "it has not been built (sparse-attn build-native)"
        if not _loaded():
            torch.ops.load_library(str(target))
        _try()
    except (BuildError, OSError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    return None


def _loaded() -> bool:
    """Whether this process has it; a library cannot be loaded twice."""
    return hasattr(torch.ops.sparse_attn_native, "forward")


def _try() -> None:
    """Runs the smallest attention there is: the processor may have been told to do less than it can."""
    x, order = torch.ones(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)
    out, log_sum = torch.empty_like(x), torch.empty(1, 1)
    torch.ops.sparse_attn_native.forward(x, x, x, order, 1, 0, False, None, out, out, log_sum)


# To torch.compile the answer is a constant, as it cannot trace the look at the machine.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
