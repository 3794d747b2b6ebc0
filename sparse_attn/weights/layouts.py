"""State dicts into models: this package's names, those of the authors' EDSR, RCAN and NLSN code, and BasicSR's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.layers.mean_shift import DIV2K_RGB_MEAN
from sparse_attn.weights.files import read_weights, strip_wrappers, unwrap

_BLOCK = re.compile(r"body\.blocks\.(\d+)\.(.+)")
_INNER = re.compile(r"body\.blocks\.(\d+)\.blocks\.(\d+)\.")
_SLOT = re.compile(r"body\.attention\.(\d+)\.(.+)")
_SHIFTS = ("sub_mean", "add_mean")
# To BasicSR's names. The blocks of an RCAN come first: as blocks of an EDSR they would match too.
_BASICSR = [
    (r"body\.blocks\.(\d+)\.blocks\.(\d+)\.body\.3\.conv_du\.0\.", r"body.\1.residual_group.\2.rcab.3.attention.1."),
    (r"body\.blocks\.(\d+)\.blocks\.(\d+)\.body\.3\.conv_du\.2\.", r"body.\1.residual_group.\2.rcab.3.attention.3."),
    (r"body\.blocks\.(\d+)\.blocks\.(\d+)\.body\.", r"body.\1.residual_group.\2.rcab."),
    (r"body\.blocks\.(\d+)\.conv\.", r"body.\1.conv."),
    (r"body\.blocks\.(\d+)\.body\.0\.", r"body.\1.conv1."),
    (r"body\.blocks\.(\d+)\.body\.2\.", r"body.\1.conv2."),
    (r"body_conv\.", "conv_after_body."),
    (r"head\.", "conv_first."),
    (r"upsampler\.", "upsample."),
    (r"tail\.", "conv_last."),
]


def load_checkpoint(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> None:
    """Loads weights strictly: all of them fit, or nothing is loaded.

    Names may be this package's, those of the authors' EDSR, RCAN and NLSN, or those of BasicSR's EDSR and RCAN. Values
    are cast to the model's dtypes. BasicSR's files hold no colour shift: the model keeps its own, and a warning says so
    where its `rgb_range` is not BasicSR's usual 255.

    Args:
        model: any module; for the foreign layouts one with this package's backbone names.
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
    fitting = _fit(own, given, f"{source} does not fit {type(model).__name__}")
    _check_range(own, given, source)
    if any(name not in fitting for name in own):
        _warn_of_range(own, source)
    model.load_state_dict({prefix + name: tensor for name, tensor in {**own, **fitting}.items()})


def fit_weights(model: nn.Module, given: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The given weights under the model's names, in their own dtypes; nothing is loaded.

    Args:
        model: what they shall fit.
        given: a state dict in any layout that `load_checkpoint` knows.
        source: where they are from, for messages.

    Raises:
        WeightsError: as `load_checkpoint`.
    """
    own = strip_wrappers(model.state_dict())[1]
    fitting = _fit(own, given, f"{source} does not fit {type(model).__name__}")
    _check_range(own, given, source)
    return {**own, **fitting}


def authors_state_dict(model: nn.Module, *, rgb_range: float | None = None) -> dict[str, Tensor]:
    """The weights under the names of the authors' EDSR, RCAN and NLSN code, for programs that know those.

    Args:
        model: one of this package's backbones.
        rgb_range: the value of white that the other program reckons with, as 255 in Spandrel's RCAN. The ends of the
            network are scaled for it, which changes its results by rounding only; None leaves the model's.

    Raises:
        ConfigError: `rgb_range` is not positive.
        WeightsError: the model has not this package's backbone names.
    """
    if rgb_range is not None and not 0 < rgb_range < float("inf"):
        raise ConfigError("bad rgb_range", expected="a positive number, 1 or 255 as a rule", got=rgb_range)
    own = strip_wrappers(model.state_dict())[1]
    if not {"head.weight", "tail.weight", "tail.bias", "body_conv.weight", "sub_mean.bias"} <= set(own):
        raise WeightsError(
            f"{type(model).__name__} has no counterpart among the authors' networks", expected="an EDSR, RCAN or NLSN"
        )
    ratio = 1.0 if rgb_range is None else rgb_range / float(getattr(model, "rgb_range", 1.0))
    if ratio != 1.0:
        scaled = {"head.weight": 1 / ratio, **dict.fromkeys(("tail.weight", "tail.bias"), ratio)}
        scaled |= {f"{shift}.bias": ratio for shift in _SHIFTS}
        own |= {name: (own[name].double() * factor).to(own[name].dtype) for name, factor in scaled.items()}
    return {theirs: own[name].clone() for name, theirs in authors_names(own).items()}


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


def basicsr_names(own: Iterable[str]) -> dict[str, str]:
    """This package's names to BasicSR's, whose state dicts are without the colour shift.

    Args:
        own: every name of the model's state dict.
    """

    def rename(name: str) -> str:
        return next((re.sub(ours, theirs, name) for ours, theirs in _BASICSR if re.match(ours, name)), name)

    return {name: rename(name) for name in own if not name.startswith(_SHIFTS)}


def _matching_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Own names to the given ones, in the layout in which most of them are found."""
    layouts = ({name: name for name in own}, authors_names(own), basicsr_names(own))
    return max(layouts, key=lambda names: len(set(names.values()) & set(given)))


def _fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], problem: str) -> dict[str, Tensor]:
    """The given weights under the own names; of BasicSR's layout without the colour shift.

    Raises:
        WeightsError: `problem`, with all that does not fit.
    """
    names = _matching_names(own, given)
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
    return {name: given[theirs] for name, theirs in names.items()}


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


def _warn_of_range(own: Mapping[str, Tensor], source: str) -> None:
    """Says that weights without a colour shift may be for another range than the model's: every shape fits."""
    white = float(own["sub_mean.bias"].abs().max()) / max(DIV2K_RGB_MEAN)
    if not 0.25 < white / 255 < 4:
        warnings.warn(
            f"{source} does not say its rgb_range, 255 as a rule in BasicSR's layout, and the model has {white:.3g}: "
            "build it with rgb_range=255, unless the weights were trained with such an img_range",
            stacklevel=3,
        )
