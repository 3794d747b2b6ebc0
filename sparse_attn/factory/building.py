"""Building a model from what was asked for, and from files that may say anything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.factory.source import Source
from sparse_attn.surgery import apply_edits

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Far beyond any network that is of use, and short of what would stop the machine.
LARGEST, MOST_WEIGHTS = 10_000, 2_000_000_000
COUNTS = ("scale", "n_resblocks", "n_resgroups", "n_feats", "in_chans")


def place_of(device: torch.device | str | None) -> torch.device:
    """The device of a name; None is the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        return torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise ConfigError("bad device", got=repr(device), remedy="pass cpu, cuda or meta") from error


def build(source: Source, config: Mapping[str, Any], place: torch.device) -> nn.Module:
    """The model with its edits and random weights, on the CPU, or without memory if `place` is `meta`.

    Raises:
        ConfigError: a configuration or edits that do not fit.
        WeightsError: a `config.json` with sizes out of all reason.
    """
    if source.file is not None:
        _refuse_absurd(source, config)
    # Initial weights are drawn on the CPU, so that a seed gives the same ones for every device.
    with torch.device("meta" if place.type == "meta" else "cpu"):
        model = source.entry.build(**config)
        if source.edits:
            apply_edits(model, source.edits)
    return model


def move(model: nn.Module, place: torch.device, dtype: torch.dtype | None) -> None:
    """Takes a model to a device and a dtype, in place.

    Raises:
        ConfigError: the device is not there.
    """
    try:
        model.to(device=place, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"cannot use device {place}", got=str(error).split("\n")[0]) from error


@contextmanager
def described_by(source: Source, given: Collection[str]) -> Iterator[None]:
    """What goes wrong within is the fault of the source's `config.json`, if it has one, and says so.

    Args:
        source: where the model comes from.
        given: the arguments that the caller changes, which may be at fault instead.

    Raises:
        WeightsError: in place of what Python or torch raised.
    """
    try:
        yield
    except (UnknownNameError, WeightsError):
        raise
    except Exception as error:
        ours = isinstance(error, ConfigError)
        if source.file is None or (ours and given):
            raise
        raise WeightsError(
            f"{source.file} describes no model that can be built"
            + (f" with {', '.join(given)} changed" if given else ""),
            got=str(error) if ours else f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            remedy="get it again, or tell whoever wrote it",
        ) from error


def check_dtype(dtype: torch.dtype | None) -> None:
    """Refuses what weights cannot be of.

    Raises:
        ConfigError: no dtype, or not one of those.
    """
    if dtype is not None and dtype not in DTYPES:
        known = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise ConfigError("bad dtype", expected=f"a floating-point torch.dtype: {known}", got=repr(dtype))


def _refuse_absurd(source: Source, config: Mapping[str, Any]) -> None:
    """Sizes at which building would not end, or would take all memory."""
    sizes = {key: config[key] for key in COUNTS if isinstance(config.get(key), int)}
    sizes |= {f"channels of edit {i}": edit.get("channels") for i, edit in enumerate(source.edits)}
    for key, value in sizes.items():
        if isinstance(value, int) and value > LARGEST:
            raise WeightsError(
                f"{source.file} describes no model that can be built",
                expected=f"{key} of at most {LARGEST}",
                got=value,
                remedy="get it again, or tell whoever wrote it",
            )
    blocks = sizes.get("n_resblocks", 1) * sizes.get("n_resgroups", 1)
    # Two convolutions of 3x3 in each block.
    weights = 18 * blocks * sizes.get("n_feats", 1) ** 2
    if blocks > LARGEST or weights > MOST_WEIGHTS:
        raise WeightsError(
            f"{source.file} describes a model that is too large",
            expected=f"at most {LARGEST} blocks and {MOST_WEIGHTS} weights in them",
            got=f"{blocks} and {weights}",
            remedy="get it again, or tell whoever wrote it",
        )
