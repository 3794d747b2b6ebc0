"""Backends of `attend`: each computes the same function; `auto` picks the fastest one that can.

The ladder of `auto`: a graph that is being exported takes `eager`, so that it needs no operator of this package; CUDA
tensors take `triton`, CPU tensors `native` where it has been built, else `blocked`; what these cannot compute takes
`eager`. Each choice is logged once, at level INFO, by the logger `sparse_attn`.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparse_attn.errors import unknown_name
from sparse_attn.ops.backends import blocked, eager, native, symbolic, triton_op
from sparse_attn.ops.grouping import Buckets, Groups, is_exporting, is_symbolic

BACKENDS = ("auto", "blocked", "eager", "native", "triton")
_FUSED = {"blocked": blocked, "native": native, "triton": triton_op}
_log = logging.getLogger("sparse_attn")


def check_backend(name: object) -> str:
    """Returns `name`.

    Raises:
        UnknownNameError: no such backend.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", str(name), BACKENDS)
    return str(name)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """For `torch.utils.flop_counter`, which cannot look into this package's own operators: what they cost."""
    return {
        torch.ops.sparse_attn.blocked_forward: blocked.forward_flops,
        torch.ops.sparse_attn.native_forward: native.forward_flops,
        torch.ops.sparse_attn.triton_forward: triton_op.forward_flops,
    }


def _candidates(backend: str, device: str) -> tuple[str, ...]:
    """What is tried, in turn, before `eager`."""
    if backend == "auto":
        return ("triton",) if device == "cuda" else ("native", "blocked")
    return ("native", "blocked") if backend == "native" else (backend,)


def choose(q: Tensor, k: Tensor, v: Tensor, groups: Groups, backend: str) -> tuple[str, str | None]:
    """The backend that will compute this, and why it is not the one that was asked for or that `auto` would prefer."""
    if backend == "eager":
        return "eager", None
    if backend == "auto" and is_exporting():
        return "eager", "the graph is being exported"
    first: str | None = None
    for name in _candidates(backend, q.device.type):
        if name == "native":
            reason = native.why_not(q, k, v, groups, build=backend == "native")
        else:
            reason = _FUSED[name].why_not(q, k, v, groups)
        if reason is None:
            return name, first
        first = first or (f"not {name}: {reason}" if backend == "auto" else reason)
    return "eager", first


@functools.cache
def _log_once(backend: str, device: str, dtype: torch.dtype, reason: str | None) -> None:
    _log.info("attention on %s, %s values: backend %s%s", device, dtype, backend, f", {reason}" if reason else "")


def run(q: Tensor, k: Tensor, v: Tensor, groups: Groups, backend: str) -> Tensor:
    """`attend` by a backend of this name; one that cannot falls back to another and warns."""
    chosen, reason = choose(q, k, v, groups, check_backend(backend))
    if reason is not None and backend != "auto":
        warnings.warn(f"backend {backend!r} falls back to {chosen!r}: {reason}", stacklevel=2)
    if not torch.compiler.is_compiling():
        _log_once(chosen, q.device.type, v.dtype, reason)
    if not isinstance(groups, Buckets):
        return eager.attend_key_lists(q, k, v, groups.index)
    if chosen == "eager" and is_symbolic(q.shape[1]) and not groups.is_dense(q.shape[1]):
        return symbolic.attend_buckets(q, k, v, groups)
    if chosen == "eager":
        return eager.attend_buckets(q, k, v, groups)
    return _FUSED[chosen].attend_buckets(q, k, v, groups)
