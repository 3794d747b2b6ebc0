"""`sparse-attn build-native`."""

from __future__ import annotations

import time

import typer

from sparse_attn.ops import build_native


def command() -> None:
    """Compile the native CPU backend, once, for this machine.

    With a C++ compiler, on Linux and a processor with AVX-512. From then on backend "auto" takes it for sparse
    attention on the CPU.
    """
    start = time.perf_counter()
    path = build_native()
    typer.echo(f"{path}: ready ({time.perf_counter() - start:.0f} s)")
