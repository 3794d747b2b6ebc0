"""Building a model from what was asked for, and from files that may say anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.factory.source import Source
from sparse_attn.surgery import apply_edits

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Ten times any network that is of use, and short of what would stop the machine: 2 GB of weights in float32.
LARGEST, MOST_WEIGHTS = 10_000, 500_000_000
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
        _refuse_too_large(source, config)
    # Initial weights are drawn on the CPU, so that a seed gives the same ones for every device.
    with torch.device("meta" if place.type == "meta" else "cpu"):
        model = source.entry.build(**config)
        if source.edits:
            apply_edits(model, source.edits)
    return model


def unallocated(make: Callable[[], nn.Module]) -> nn.Module | None:
    """A model on the meta device, without memory or random numbers; None if its builder looks at values of tensors.

    A registered builder may, as by `linspace(...)[i].item()`; none of this package's does.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return make()
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
        return None


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
    """Counts with which building, or running what was built, would not end."""
    sizes = {key: config.get(key) for key in COUNTS}
    attentions = {"attention_kwargs": config.get("attention_kwargs")}
    for i, edit in enumerate(source.edits):
        sizes[f"channels of edit {i}"] = edit.get("channels")
        attentions[f"settings of edit {i}"] = edit.get("settings")
    for where, settings in attentions.items():
        if isinstance(settings, Mapping):
            sizes[f"rounds in {where}"] = settings.get("rounds")
    counts = {key: value for key, value in sizes.items() if isinstance(value, int)}
    counts["n_resgroups times n_resblocks"] = counts.get("n_resblocks", 1) * counts.get("n_resgroups", 1)
    for key, value in counts.items():
        if value > LARGEST:
            raise WeightsError(
                f"{source.file} describes no model that can be built",
                expected=f"{key} of at most {LARGEST}",
                got=value,
                remedy="get it again, or tell whoever wrote it",
            )


def _refuse_too_large(source: Source, config: Mapping[str, Any]) -> None:
    """More weights than fit, whichever of the sizes makes them: counted on a model that has no memory."""

    def make() -> nn.Module:
        made = source.entry.build(**config)
        if source.edits:
            apply_edits(made, source.edits)
        return made

    model = unallocated(make)
    if model is None:
        return
    weights = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if weights > MOST_WEIGHTS:
        raise WeightsError(
            f"{source.file} describes a model that is too large",
            expected=f"at most {MOST_WEIGHTS} weights",
            got=weights,
            remedy="get it again, or tell whoever wrote it",
        )
