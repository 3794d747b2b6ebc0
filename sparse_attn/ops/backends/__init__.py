"""Backends of `attend`: each computes the same function; `auto` picks the best one that can."""

from __future__ import annotations

from sparse_attn.errors import unknown_name

BACKENDS = ("auto", "eager")


def check_backend(name: object) -> str:
    """Returns `name`.

    Raises:
        UnknownNameError: no such backend.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", str(name), BACKENDS)
    return str(name)
