"""State dicts into models: this package's names, and those of the authors' EDSR, RCAN and NLSN code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from sparse_attn.errors import WeightsError
from sparse_attn.weights.files import read_weights, strip_wrappers, unwrap

_BLOCK = re.compile(r"body\.blocks\.(\d+)\.(.+)")
_INNER = re.compile(r"body\.blocks\.(\d+)\.blocks\.(\d+)\.")
_SLOT = re.compile(r"body\.attention\.(\d+)\.(.+)")


def load_checkpoint(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> None:
    """Loads weights strictly: all of them fit, or nothing is loaded.

    Names may be this package's or those of the authors' EDSR, RCAN and NLSN. Values are cast to the model's dtypes.

    Args:
        model: any module; for the authors' layouts one with this package's backbone names.
        path_or_state_dict: what `read_weights` reads, or a state dict.

    Raises:
        WeightsError: unreadable, for another range of colours, or not fitting: every missing, unexpected and misshapen
            name is in the message.
    """
    if isinstance(path_or_state_dict, Mapping):
        source, given = "the state dict", unwrap(path_or_state_dict, "the state dict")
    else:
        source, given = str(path_or_state_dict), read_weights(path_or_state_dict)
    prefix, own = strip_wrappers(model.state_dict())
    names = _matching_names(own, given)
    _check(own, given, names, f"{source} does not fit {type(model).__name__}")
    _check_range(own, given, source)
    model.load_state_dict({prefix + name: given[theirs] for name, theirs in names.items()})


def authors_names(own: Iterable[str]) -> dict[str, str]:
    """This package's names to the authors'.

    They keep blocks, attentions and the last convolution in one list: `body.<i>`. A group of RCAN is such a list too.

    Args:
        own: every name of the model's state dict.
    """
    names = list(own)
    blocks = {int(m[1]) for m in map(_BLOCK.match, names) if m}
    slots = sorted({int(m[1]) for m in map(_SLOT.match, names) if m})
    inner = {(int(m[1]), int(m[2])) for m in map(_INNER.match, names) if m}

    def block(match: re.Match[str]) -> str:
        index, rest = int(match[1]), match[2]
        place = index + sum(position <= index for position in slots)
        if rest.startswith("conv."):
            rest = f"body.{sum(group == index for group, _ in inner)}.{rest.removeprefix('conv.')}"
        return f"body.{place}.{re.sub(r'^blocks[.]', 'body.', rest)}"

    def slot(match: re.Match[str]) -> str:
        place = int(match[1]) + slots.index(int(match[1]))
        rest = re.sub(r"^embed[.]", "conv_match.0.", re.sub(r"^value[.]", "conv_assembly.0.", match[2]))
        return f"body.{place}.{rest}"

    rules: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
        (_BLOCK, block),
        (_SLOT, slot),
        (re.compile(r"body_conv\.(.+)"), lambda m: f"body.{len(blocks) + len(slots)}.{m[1]}"),
        (re.compile(r"head\.(.+)"), lambda m: f"head.0.{m[1]}"),
        (re.compile(r"upsampler\.(.+)"), lambda m: f"tail.0.{m[1]}"),
        (re.compile(r"tail\.(.+)"), lambda m: f"tail.1.{m[1]}"),
    ]

    def rename(name: str) -> str:
        return next((rule(match) for pattern, rule in rules if (match := pattern.fullmatch(name))), name)

    return {name: rename(name) for name in names}


def _matching_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Own names to the given ones, in whichever layout more of them are found."""
    identity, authors = {name: name for name in own}, authors_names(own)
    found = [len(set(names.values()) & set(given)) for names in (identity, authors)]
    return authors if found[1] > found[0] else identity


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor], names: Mapping[str, str], problem: str) -> None:
    missing = [theirs for theirs in names.values() if theirs not in given]
    unexpected = sorted(set(given) - set(names.values()))
    misshapen = [
        f"{theirs} is {_describe(given[theirs])} where the model has {_describe(own[name])}"
        for name, theirs in names.items()
        if theirs in given and _describe(given[theirs]) != _describe(own[name])
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if missing or unexpected or misshapen:
        raise WeightsError(
            problem,
            got="; ".join(f"{kind}: {', '.join(which)}" for kind, which in found.items() if which),
            remedy="build the model with the configuration that the weights were trained with",
        )
    meta = [name for name, tensor in own.items() if tensor.is_meta]
    if meta:
        raise WeightsError("the model is on the meta device", got=meta[0], remedy="build it on a real device")


def _describe(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {tensor.dtype}"
    return f"{tuple(tensor.shape)}{kind}"


def _check_range(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights for colours 0..255 in a model of 0..1, and the reverse: every shape fits, every picture fails."""
    name = "sub_mean.bias"
    if name not in own or name not in given:
        return
    theirs, ours = (float(state[name].abs().max()) for state in (given, own))
    # Room for colour shifts that were trained, and for a shift that was trained away or never used.
    if 4 < max(theirs, ours) / max(min(theirs, ours), 1e-12) < 4096:
        raise WeightsError(
            f"{source} is for another rgb_range",
            expected=f"{name} near {ours:.3g}",
            got=f"{theirs:.3g}",
            remedy=f"build the model with the rgb_range of the weights, {'255' if theirs > ours else '1'} as a rule",
        )
