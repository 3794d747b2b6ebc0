"""Weights from one attention into another, where they mean the same."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparse_attn.attention import Attention2d
from sparse_attn.surgery.foreign import Affine, Projections


class Carried:
    """What was carried and what was not.

    Attributes:
        kept: parts of the new attention that mean what they meant in the old one.
        lost: parts of the old attention that the new one has no place for, or of the new one that start afresh, each
            with the reason.
        notes: what else differs.
    """

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.lost: list[str] = []
        self.notes: list[str] = []

    def lose(self, part: str, reason: str) -> None:
        """Moves what begins with `part` from `kept` to `lost`."""
        self.lost += [f"{name} ({reason})" for name in self.kept if name.startswith(part)]
        self.kept = [name for name in self.kept if not name.startswith(part)]


def carry_own(old: Attention2d, new: Attention2d) -> Carried:
    """Between two attentions of this package: parameters of one name and meaning.

    A convolution grows by a rim of zeros, and a query embedding that was shared is copied where it is now apart. Of a
    parametrized weight its present value is carried.
    """
    result = Carried()
    before, made = _effective(old)
    result.notes += [f"{name} was parametrized and is a plain weight now" for name in made]
    sources = dict(before)
    for name, tensor in new.named_parameters():
        source, where = before.pop(name, None), name
        if source is None and name.startswith("query."):
            where = name.replace("query.", "embed.")
            source = sources.get(where)
        value = None if source is None else _grown(source.detach(), tensor)
        if value is None or source is None:
            reason = f"{tuple(source.shape)} does not fit {tuple(tensor.shape)}" if source is not None else "new"
            result.lost.append(f"{name} ({reason})")
            continue
        tensor.data.copy_(value)
        tensor.requires_grad_(source.requires_grad)
        result.kept.append(name if where == name else f"{name} (from {where})")
    result.lost += [f"{name} (no place for it)" for name in before]
    if old.normalize_keys != new.normalize_keys:
        result.notes.append("keys are now normalised" if new.normalize_keys else "keys are no longer normalised")
    return result


def carry_foreign(old: Projections, new: Attention2d) -> Carried:
    """From the projections of another library's block."""
    result = Carried()
    result.notes += old.notes
    embeddings = {"embed": (old.key, new.embed), "query": (old.query, new.query)}
    width = len(old.query.bias)
    if new.query is None:
        result.lost += [f"{part} (queries and keys share one now: shared_qk=False keeps both)" for part in embeddings]
    elif new.embed.out_channels < width:
        result.lost += [f"{part} ({width} wide, now {new.embed.out_channels})" for part in embeddings]
    else:
        for part, (affine, convolution) in embeddings.items():
            # Beyond the old width one factor of each product is zero, the other not, so that both can learn.
            _write(affine, cast(nn.Conv2d, convolution), clear=part == "query")
            cast(nn.Conv2d, convolution).requires_grad_({"embed": "key"}.get(part, part) not in old.frozen)
            result.kept.append(part)
        if new.normalize_keys:
            result.notes.append("keys are now normalised")
        if new.embed.out_channels > width:
            result.notes.append(f"queries and keys were {width} wide, now {new.embed.out_channels} with zero queries")
    _write(old.value, new.value, clear=True)
    new.value.requires_grad_("value" not in old.frozen)
    result.kept.append("value")
    return result


def _effective(attention: Attention2d) -> tuple[dict[str, Tensor], list[str]]:
    """The weights an attention works with, by name, and which of them are made by a parametrization."""
    found: dict[str, Tensor] = {}
    made = []
    for path, module in attention.named_modules():
        if "parametrizations" in path.split("."):
            continue
        found.update({f"{path}.{name}".lstrip("."): p for name, p in module._parameters.items() if p is not None})
        if parametrize.is_parametrized(module):
            # A spectral norm in training mode takes a step with each look at the weight.
            still = copy.deepcopy(module).eval()
            for name, maker in cast(nn.ModuleDict, module.parametrizations).items():
                value = getattr(still, name).detach()
                value.requires_grad_(any(p.requires_grad for p in maker.parameters()))
                found[f"{path}.{name}"] = value
                made.append(f"{path}.{name}")
    return found, made


def _grown(source: Tensor, like: Tensor) -> Tensor | None:
    """A (O, I, h, w) kernel with a rim of zeros, as large as `like`; None if it cannot be."""
    if source.shape == like.shape:
        return source
    if source.ndim != 4 or source.shape[:2] != like.shape[:2] or source.shape[2] > like.shape[2]:
        return None
    rim = (like.shape[2] - source.shape[2]) // 2
    return torch.nn.functional.pad(source, (rim, rim, rim, rim))


def _write(affine: Affine, convolution: nn.Conv2d, *, clear: bool) -> None:
    """Puts a 1x1 convolution into the centre of the first filters of one of odd size."""
    rows, centre = len(affine.bias), convolution.kernel_size[0] // 2
    weight, bias = convolution.weight.data, convolution.bias
    target = weight if clear else weight[:rows]
    target.zero_()
    weight[:rows, :, centre, centre] = affine.weight.to(weight)
    if bias is not None:
        bias.data[: len(bias) if clear else rows] = 0
        bias.data[:rows] = affine.bias.to(bias)
