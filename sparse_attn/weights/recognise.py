"""Foreign state dicts to configurations: which network, how wide, how deep, for which scale and range of colours.

The layouts are those of the authors' EDSR (thstkdgus35/EDSR-PyTorch), RCAN (yulunzhang/RCAN) and NLSN
(HarukiYqM/Non-Local-Sparse-Attention), and of BasicSR's EDSR and RCAN. What no tensor shows is assumed, and said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.layers.mean_shift import DIV2K_RGB_MEAN
from sparse_attn.weights.strangers import name_stranger

AUTHORS, BASICSR = "the authors'", "BasicSR's"
# Where a layout keeps the first, the body's and the last convolution, and the enlargement.
_PLACES = {
    AUTHORS: {"head": "head.0", "body": "body.0", "tail": "tail.1", "upsampler": "tail.0"},
    BASICSR: {"head": "conv_first", "body": "body.0", "tail": "conv_last", "upsampler": "upsample"},
}
_REQUIRED = {
    AUTHORS: ("head.0.weight", "tail.1.weight"),
    BASICSR: ("conv_first.weight", "conv_after_body.weight", "conv_last.weight"),
}
_BODY = {
    AUTHORS: r"body\.\d+\.(body\.\d+\.(weight|bias|body\.)|conv_match\.0\.)",
    BASICSR: r"body\.\d+\.(conv1\.|residual_group\.\d+\.rcab\.)",
}
_BUCKETS = {"bucket_size": 144, "rounds": 4}


@dataclass(frozen=True)
class Recognised:
    """A network found in a state dict.

    Args:
        layout: whose names they are.
        family: `edsr`, `rcan` or `nlsn`.
        config: the arguments of the backbone.
        weights: the tensors, under the layout's names.
        assumed: what no tensor shows, in words.
    """

    layout: str
    family: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    assumed: tuple[str, ...]


def recognise(
    weights: Mapping[str, Tensor],
    *,
    rgb_range: float | None = None,
    res_scale: float | None = None,
    settings: Mapping[str, float] | None = None,
) -> Recognised:
    """Finds the network that a state dict is of. That every tensor fits it is for `fit_weights` to prove.

    Args:
        weights: without wrappers' prefixes.
        rgb_range: the value of white, where it is known better.
        res_scale: the factor on residual branches, where it is known better.
        settings: what the checkpoint's hyper-parameters say.

    Raises:
        ConfigError: a bad `rgb_range` or `res_scale`.
        WeightsError: a network that is none of these, or too little of one; the message says why.
    """
    known = {**(settings or {}), **_checked(rgb_range=rgb_range, res_scale=res_scale)}
    layout = _layout(weights)
    places = _PLACES[layout]
    head = _conv(weights, f"{places['head']}.weight")
    config: dict[str, Any] = {"n_feats": head[0], "in_chans": head[1]}
    config["scale"] = _scale(weights, places["upsampler"])
    body = _authors_body(weights, head[0]) if layout == AUTHORS else _basicsr_body(weights, head[0])
    family = "rcan" if "n_resgroups" in body else "nlsn" if body.get("attention") else "edsr"
    assumed: list[str] = []
    config["rgb_range"] = _range(weights, known, family, layout, assumed)
    if family != "rcan":
        config["res_scale"] = _res_scale(known, head[0], assumed)
    elif res_scale not in (None, 1) or (layout == BASICSR and known.get("res_scale", 1) != 1):
        raise ConfigError("RCAN here has no res_scale", expected="1", got=known["res_scale"])
    elif layout == BASICSR:
        assumed.append("res_scale is 1: BasicSR's usual, and all that RCAN here knows")
    if "attention" in body:
        chosen = {name: int(known.get(name, usual)) for name, usual in _BUCKETS.items()}
        body["attention_kwargs"] = {**chosen, **body["attention_kwargs"]}
        if not set(_BUCKETS) <= set(known):
            assumed.append(
                f"nlsa with bucket_size {chosen['bucket_size']} and rounds {chosen['rounds']}, the usual ones; "
                "configure_attention changes them"
            )
    return Recognised(layout, family, {**config, **body}, _with_shift(weights, head[1], layout), tuple(assumed))


def _checked(**given: float | None) -> dict[str, float]:
    for name, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"bad {name}", expected="a positive number", got=value)
    return {name: float(value) for name, value in given.items() if value is not None}


def _layout(weights: Mapping[str, Tensor]) -> str:
    some = ", ".join(list(weights)[:6]) or "nothing"
    if stranger := name_stranger(weights):
        raise WeightsError(f"not a network that can be imported: it looks like {stranger}", got=f"{some}, ...")
    lacks: dict[str, list[str]] = {}
    for layout, required in _REQUIRED.items():
        lacks[layout] = [name for name in required if name not in weights]
        if not any(re.match(_BODY[layout], name) for name in weights):
            lacks[layout].append(f"{_PLACES[layout]['body']}.*")
        if not lacks[layout]:
            return layout
    near = min(lacks, key=lambda layout: len(lacks[layout]))
    raise WeightsError(
        "not a network that can be imported",
        expected="the authors' EDSR, RCAN or NLSN, or BasicSR's EDSR or RCAN",
        got=f"{some}, ...",
        remedy=f"nearest is {near} layout, of which it lacks {', '.join(lacks[near])}",
    )


def _conv(weights: Mapping[str, Tensor], name: str) -> tuple[int, int, int, int]:
    """The shape of a convolution's weight."""
    shape = tuple(weights[name].shape) if name in weights else None
    if shape is None or len(shape) != 4 or 0 in shape:
        raise WeightsError(f"{name} is not a convolution", expected="(out, in, height, width)", got=shape or "nothing")
    return shape[0], shape[1], shape[2], shape[3]


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that the pattern's group finds; gaps are for `fit_weights` to find."""
    found = [m[1] for m in (re.match(pattern, name) for name in weights) if m]
    # A network is built from these: one that the file cannot fill must not be.
    if far := next((n for n in found if len(n) > 9 or int(n) >= len(weights)), None):
        raise WeightsError(
            "a number in the names is too large", expected=f"below {len(weights)}, as many as tensors", got=far[:20]
        )
    return 1 + max(map(int, found), default=-1)


def _scale(weights: Mapping[str, Tensor], place: str) -> int:
    scale = 1
    for index in range(_count(weights, rf"{re.escape(place)}\.(\d+)\.weight")):
        name = f"{place}.{index}.weight"
        if name in weights:
            out, width = _conv(weights, name)[:2]
            factor = math.isqrt(out // width)
            if factor * factor * width != out or factor not in (2, 3):
                raise WeightsError(
                    f"{name} is not for a pixel shuffle of 2 or 3",
                    expected=f"{4 * width} or {9 * width} channels",
                    got=out,
                )
            scale *= factor
    return scale


def _authors_body(weights: Mapping[str, Tensor], width: int) -> dict[str, Any]:
    """The blocks and attentions, of which their list counts all, and the convolution at its end."""
    last = _count(weights, r"body\.(\d+)\.") - 1
    attended = [index for index in range(last) if f"body.{index}.conv_match.0.weight" in weights]
    found: dict[str, Any] = {"n_resblocks": last - len(attended)}
    inner = _count(weights, r"body\.\d+\.body\.\d+\.body\.3\.conv_du\.(\d+)\.")
    if inner:
        squeeze = next((name for name in weights if name.endswith(".conv_du.0.weight")), "conv_du.0.weight")
        blocks = _blocks(weights, found["n_resblocks"], r"body\.\d+\.body\.(\d+)\.", 1)
        found = {
            "n_resgroups": found["n_resblocks"],
            "n_resblocks": blocks,
            "reduction": _ratio(weights, squeeze, width),
        }
    if attended:
        embed = f"body.{attended[0]}.conv_match.0.weight"
        own = {"reduction": _ratio(weights, embed, width), "embed_kernel": _conv(weights, embed)[2]}
        usual = {"reduction": 4, "embed_kernel": 3}
        found["attention"] = "nlsa"
        found["attention_at"] = [index - rank for rank, index in enumerate(attended)]
        found["attention_kwargs"] = {
            "boundary": "repeat",
            **{name: value for name, value in own.items() if value != usual[name]},
        }
    return found


def _basicsr_body(weights: Mapping[str, Tensor], width: int) -> dict[str, Any]:
    entries = _count(weights, r"body\.(\d+)\.")
    blocks = _blocks(weights, entries, r"body\.\d+\.residual_group\.(\d+)\.", 0)
    if not blocks:
        return {"n_resblocks": entries}
    squeeze = "body.0.residual_group.0.rcab.3.attention.1.weight"
    return {"n_resgroups": entries, "n_resblocks": blocks, "reduction": _ratio(weights, squeeze, width)}


def _blocks(weights: Mapping[str, Tensor], groups: int, pattern: str, others: int) -> int:
    """The blocks of each group, whose list ends with `others`."""
    blocks = _count(weights, pattern) - others
    if groups * blocks > len(weights):
        raise WeightsError(
            "there are fewer tensors than blocks", expected=f"{groups} groups of {blocks}", got=len(weights)
        )
    return blocks


def _ratio(weights: Mapping[str, Tensor], name: str, width: int) -> int:
    return max(1, width // _conv(weights, name)[0])


def _range(
    weights: Mapping[str, Tensor], known: Mapping[str, float], family: str, layout: str, assumed: list[str]
) -> float:
    """The value of white: by the colour shift where there is one, else as told, else the usual one."""
    shift = weights.get("sub_mean.bias")
    # As in `MeanShift`: other than three colours are shifted by the average.
    usual_shift = max(DIV2K_RGB_MEAN) if shift is None or shift.numel() == 3 else sum(DIV2K_RGB_MEAN) / 3
    white = 0.0 if shift is None else float(shift.abs().max()) / usual_shift
    if "rgb_range" in known:
        return known["rgb_range"]
    if white:
        nearest = min((1.0, 255.0), key=lambda usual: abs(math.log(white / usual)))
        if not 0.25 < white / nearest < 4:
            raise WeightsError(
                "the colour shift is of no usual range",
                expected="white near 1 or 255",
                got=f"{white:.3g}",
                remedy="say it: --rgb-range",
            )
        if abs(white / nearest - 1) > 0.01:
            assumed.append(f"rgb_range is {nearest:g}: the colour shift, which was trained, is nearest to it")
        return nearest
    usual, why = (255.0, "the usual one") if layout == BASICSR or family != "nlsn" else (1.0, "as in the release")
    if layout == AUTHORS and shift is None:
        usual, why = 1.0, "as in Spandrel"
    what = "the file holds no colour shift to tell it by" if shift is None else "its colour shift is zero"
    assumed.append(f"rgb_range is {usual:g}, {why}: {what}; --rgb-range says otherwise")
    return usual


def _res_scale(known: Mapping[str, float], width: int, assumed: list[str]) -> float:
    if "res_scale" in known:
        return known["res_scale"]
    usual = 0.1 if width >= 256 else 1.0
    assumed.append(f"res_scale is {usual:g}, usual {width} wide: no tensor shows it; --res-scale says otherwise")
    return usual


def _with_shift(weights: Mapping[str, Tensor], channels: int, layout: str) -> dict[str, Tensor]:
    """The weights; of an authors' network that was built without a colour shift with one that does nothing."""
    if layout == BASICSR or any(name.startswith(("sub_mean.", "add_mean.")) for name in weights):
        return dict(weights)
    idle = {"weight": torch.eye(channels).reshape(channels, channels, 1, 1), "bias": torch.zeros(channels)}
    return {**weights, **{f"{shift}.{name}": t for shift in ("sub_mean", "add_mean") for name, t in idle.items()}}
