"""What training code saves around a network's weights, and finding those: containers, prefixes, hyper-parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sparse_attn.errors import WeightsError
from sparse_attn.weights.files import CONTAINERS, is_state_dict, read_object, strip_wrappers

# Attributes under which a training module keeps its network, as the first part of a tensor's name ...
NETWORKS = {"model", "module", "net", "network", "generator", "net_g", "netG", "sr_model"}
# ... and those of what it keeps beside it, which enlarging pictures does without.
_TRAINING_ONLY = re.compile(r"loss|criterion|discriminator|^net_?[dD]$|vgg|percep|lpips|metric|psnr|ssim")
_HYPER_PARAMETERS = ("hyper_parameters", "hparams", "args", "config", "opt")
# Other people's words for the settings that no tensor shows.
_SETTINGS = {
    "res_scale": "res_scale",
    "rgb_range": "rgb_range",
    "img_range": "rgb_range",
    "chunk_size": "bucket_size",
    "n_hashes": "rounds",
}


@dataclass(frozen=True)
class Opened:
    """The weights a checkpoint holds.

    Args:
        weights: names to tensors, without wrappers' prefixes.
        where: the way to them: container keys and prefixes; empty where the file is a plain state dict.
        left: what else there was, in words.
        settings: `res_scale`, `rgb_range`, `bucket_size`, `rounds`, as far as the file's hyper-parameters say.
    """

    weights: dict[str, Tensor]
    where: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    settings: Mapping[str, float] | None = None


def open_checkpoint(path: Path, *, key: str | None = None) -> Opened:
    """Reads a checkpoint and finds the one network in it.

    Args:
        path: a file that `read_weights` reads.
        key: which container, or which prefix of the names, to take where there are several.

    Raises:
        WeightsError: unreadable, no weights, several networks and no `key`, or a `key` that is not there.
    """
    loaded = read_object(path)
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} is not a state dict", expected="names to tensors", got=type(loaded).__name__)
    opened = Opened(dict(loaded)) if is_state_dict(loaded) else _open_container(loaded, path, key)
    return _open_prefix(opened, path, None if key in opened.where else key)


def _open_container(loaded: Mapping[Any, Any], path: Path, key: str | None) -> Opened:
    inner = {str(name): value for name, value in loaded.items() if is_state_dict(value)}
    settings = _settings([loaded.get(name) for name in _HYPER_PARAMETERS])
    if key in inner:
        chosen = key
    elif set(inner) == {"params", "params_ema"}:
        # Those are the averaged weights, which BasicSR's own programs load too.
        chosen = "params_ema"
    elif len(inner) == 1:
        chosen = next(iter(inner))
    elif inner:
        raise WeightsError(
            f"{path} holds several state dicts", got=", ".join(inner), remedy=f"say which: --key {next(iter(inner))}"
        )
    else:
        raise _nothing(loaded, path)
    left = [f"{name}: {len(value)} tensors, taken instead with --key {name}" for name, value in inner.items()]
    del left[list(inner).index(chosen)]
    return Opened(dict(inner[chosen]), (chosen,), tuple(left), settings)


def _nothing(loaded: Mapping[Any, Any], path: Path) -> WeightsError:
    kinds = ", ".join(f"{name}: {type(value).__name__}" for name, value in list(loaded.items())[:8]) or "nothing"
    if "param_groups" in loaded:
        return WeightsError(f"{path} holds the state of an optimizer, not a network", got=kinds)
    return WeightsError(
        f"{path} holds no weights", expected=f"names to tensors, alone or under {', '.join(CONTAINERS)}", got=kinds
    )


def _open_prefix(opened: Opened, path: Path, key: str | None) -> Opened:
    """Drops prefixes that all names have, or else takes the one part of the names that is a network."""
    prefix, weights = strip_wrappers(opened.weights)
    where = (*opened.where, *filter(None, prefix.split(".")))
    parts: dict[str, int] = {}
    for name in weights:
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + 1
    if key in (None, *where):
        networks = sorted(NETWORKS & set(parts))
        others = [part for part in parts if part not in networks and not _TRAINING_ONLY.search(part)]
        if not networks:
            return replace(opened, weights=weights, where=where)
        if len(networks) > 1 or others:
            raise WeightsError(
                f"{path} holds more than one network",
                got=", ".join(f"{part}.* ({count} tensors)" for part, count in parts.items()),
                remedy=f"say which: --key {networks[0]}",
            )
        key = networks[0]
    elif key not in parts:
        raise WeightsError(f"{path} has no {key!r}", expected=f"one of {', '.join([*where, *parts])}")
    inner = {name.removeprefix(f"{key}."): t for name, t in weights.items() if name.startswith(f"{key}.")}
    left = [f"{part}.*: {count} tensors" for part, count in parts.items() if part != key]
    deeper = Opened(inner, (*where, str(key)), (*opened.left, *left), opened.settings)
    return _open_prefix(deeper, path, None)


def _settings(holders: list[object]) -> dict[str, float]:
    """The numbers under known words in nested dicts; a word that is there twice with two values is not believed."""
    found: dict[str, set[float]] = {}
    while holders:
        holder = holders.pop()
        if not isinstance(holder, Mapping):
            continue
        for name, value in holder.items():
            if isinstance(value, Mapping):
                holders.append(value)
            elif name in _SETTINGS and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(_SETTINGS[name], set()).add(float(value))
    return {name: values.pop() for name, values in found.items() if len(values) == 1}
