"""Checks of attention settings: each returns the value, or raises what was expected and got."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sparse_attn.errors import ConfigError


def positive_int(name: str) -> Callable[[Any], int]:
    """A check for whole numbers of at least 1."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"bad {name}", expected="a whole number of at least 1", got=repr(value))
        return value

    return check


def any_int(name: str) -> Callable[[Any], int]:
    """A check for whole numbers."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"bad {name}", expected="a whole number", got=repr(value))
        return value

    return check


def one_of(name: str, *choices: str) -> Callable[[Any], str]:
    """A check for one of a few words."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ConfigError(f"bad {name}", expected=" or ".join(map(repr, choices)), got=repr(value))
        return str(value)

    return check


def yes_or_no(name: str) -> Callable[[Any], bool]:
    """A check for True and False."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ConfigError(f"bad {name}", expected="True or False", got=repr(value))
        return value

    return check


def finite_number(name: str) -> Callable[[Any], float]:
    """A check for numbers that are neither infinite nor NaN."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"bad {name}", expected="a finite number", got=repr(value))
        return value

    return check


def window_size(value: Any) -> tuple[int, int] | None:
    """None, or an int or pair as (h, w)."""
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise ConfigError("bad window", expected="a side or (height, width)", got=repr(value))
    check = positive_int("window")
    return check(pair[0]), check(pair[1])
