"""One attention for another, with the weights that mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sparse_attn.attention import Attention2d, create_attention
from sparse_attn.errors import ConfigError
from sparse_attn.surgery.carry import Carried, carry_foreign, carry_own
from sparse_attn.surgery.foreign import channels_of, hooks_of, is_foreign, projections, refuse_computed
from sparse_attn.surgery.names import Where, choose, names_of
from sparse_attn.surgery.record import (
    Edit,
    arguments_of,
    current_settings,
    edit_of,
    jsonable,
    refuse_wrapped,
    registered_name,
    remember,
)


@dataclass(frozen=True)
class Swap:
    """One attention that was exchanged.

    Args:
        name: its dotted name.
        before: what was there: a registered name, or a class.
        attention: what is there now: a registered name.
        channels: C.
        carried: the parts whose weights were carried over.
        lost: the parts whose weights were not, each with the reason.
        notes: what else differs from before.
    """

    name: str
    before: str
    attention: str
    channels: int
    carried: tuple[str, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]


def swap_attention(model: nn.Module, where: Where = "*", attention: str = "nlsa", **settings: Any) -> list[Swap]:
    """Exchanges attentions that a network has for another, in place, and carries their weights over.

    Exchanged are attentions of this package, timm's `NonLocalAttn`, and non-local blocks with the parts of mmcv's
    `NonLocal2d` (`theta`, `phi`, `g` and `conv_out`, `W` or `W_z`, all 1x1 convolutions). Of this package's, the
    settings are kept that the new one takes too, and every weight whose shape allows it. For another library's block,
    `reduction` is chosen to fit, with `embed_kernel=1`, `shared_qk=False` and `normalize_keys=False`, unless set
    otherwise: `"nla"` then computes what the block computed in eval mode, to rounding. What could not be carried starts
    afresh and is in the report.

    Args:
        model: the network; exchange before compiling or wrapping it and before making its optimizer.
        where: as for `insert_attention`, of the network's attentions; a glob also means those below the modules it
            matches, so `"layer3"` is every attention in it, and `"*"` every one there is.
        attention: one of `list_attention()`.
        settings: passed to the attention, over those kept.

    Returns:
        What was exchanged, in the order of the network's modules.

    Raises:
        ConfigError: nothing matches; an attention was inserted into another library's block; a block's weights are
            computed by hooks; a bad setting. Then nothing has changed.
        UnknownNameError: no such attention, or no such setting of it.
    """
    refuse_wrapped(model)
    names = names_of(model)
    inside = {part for m in names if _is_attention(m) for part in m.modules() if part is not m}
    found = {module: own for module, own in names.items() if _is_attention(module) and module not in inside}
    if not found:
        raise ConfigError(
            "no attention to exchange",
            expected="attentions of this package, or non-local blocks of timm or mmcv, below the model",
            got=type(model).__name__,
            remedy="insert_attention puts some in",
        )
    chosen = choose(found, where, below=True)
    planned = [Exchange(old, own, attention, settings, seed=list(found).index(old)) for old, own in chosen.items()]
    reports = [_noting_shared(model, exchange) for exchange in planned]
    for exchange in planned:
        exchange.commit(model)
    return reports


def _noting_shared(model: nn.Module, exchange: Exchange) -> Swap:
    """The report, with a note on weights that other modules hold as well."""
    within = set(exchange.old.modules())
    own = {id(p): name for name, p in exchange.old.named_parameters()}
    # A module in two places counts as well, so the holders of each are looked for and not only the weights.
    inside = {id(child) for part in within for child in part.children()}
    others = [module for module in model.modules() if module not in within]
    shared = {own[id(p)] for module in others for p in module._parameters.values() if id(p) in own}
    for module in others:
        for child in module.children():
            if id(child) in inside:
                shared |= {own[id(p)] for p in child.parameters()}
    if not shared:
        return exchange.report
    note = f"shared with another module until now: {', '.join(name for name in own.values() if name in shared)}"
    return replace(exchange.report, notes=(*exchange.report.notes, note))


class Exchange:
    """One attention ready to take the place of another.

    Args:
        old: what is there, which stays as it is.
        names: the names it goes by.
        attention: the new one's registered name.
        settings: the new one's arguments, over those kept.
        seed: the new one's, where it has one and neither `settings` nor `old` says.
    """

    def __init__(
        self, old: nn.Module, names: Sequence[str], attention: str, settings: Mapping[str, Any], *, seed: int = 0
    ) -> None:
        self.old, self.names = old, list(names)
        takes = arguments_of(attention)
        offered = {"seed": seed, **kept_settings(old)}
        built = {**takes, **{key: value for key, value in offered.items() if key in takes}, **settings}
        if isinstance(old, Attention2d):
            channels, before = old.channels, registered_name(old) or type(old).__name__
        else:
            _refuse_inserted(old, self.names[0])
            channels, before = channels_of(old), type(old).__name__
        like = next(p for p in old.parameters() if p.is_floating_point())
        with torch.device("cpu"):
            fresh = create_attention(attention, channels, **built)
        self.new = fresh.to(like.device, like.dtype).train(old.training)
        refuse_computed(old, self.names[0])
        result = self._carry()
        hooks = hooks_of(old)
        if hooks:
            result.notes.append(f"hooks on the block that are gone with it: {hooks}")
        if settings.get("zero_init"):
            self.new.zero_init_()
            result.lose("value", "zero_init")
        edit = edit_of(old)
        if edit is None or edit.kind == "swap":
            was = edit.was if edit else self._was(before, result)
            edit = Edit("swap", jsonable(built), was=was)
        else:
            edit = Edit("insert", jsonable(built), by=edit.by)
        remember(self.new, edit)
        self.report = Swap(
            self.names[0], before, attention, channels, tuple(result.kept), tuple(result.lost), tuple(result.notes)
        )

    def commit(self, model: nn.Module) -> None:
        """Puts the new attention where the old one is."""
        put(model, self.names, self.new)

    def undo(self, model: nn.Module) -> None:
        """Puts the old one back."""
        put(model, self.names, self.old)

    def _carry(self) -> Carried:
        if isinstance(self.old, Attention2d):
            return carry_own(self.old, self.new)
        found = projections(self.old, self.names[0])
        if isinstance(found, str):
            result = Carried()
            result.lost.append(f"every weight ({found})")
            return result
        return carry_foreign(found, self.new)

    def _was(self, before: str, result: Carried) -> dict[str, Any]:
        """What `remove_attention` can put back: nothing whose weights have no place in what is there meanwhile."""
        if not isinstance(self.old, Attention2d) or registered_name(self.old) is None or result.lost:
            return {"type": before}
        return {"attention": before, "settings": jsonable(current_settings(self.old))}


def put(model: nn.Module, names: Sequence[str], module: nn.Module) -> None:
    """Registers `module` under each of the names."""
    for name in names:
        parent, _, last = name.rpartition(".")
        model.get_submodule(parent).register_module(last, module)


def kept_settings(old: nn.Module) -> dict[str, Any]:
    """The settings of an attention, or those with which one computes what another library's block computes."""
    if isinstance(old, Attention2d):
        return current_settings(old)
    channels = channels_of(old)
    theta = next(child for name, child in old.named_children() if name in ("theta", "t"))
    width = [layer.out_channels for layer in theta.modules() if isinstance(layer, nn.Conv2d)][-1]
    # At least as wide: what is beyond the old width is zero.
    reduction = max(channels // width, 1)
    return {"reduction": reduction, "embed_kernel": 1, "shared_qk": False, "normalize_keys": False, "zero_init": False}


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, Attention2d) or is_foreign(module)


def _refuse_inserted(old: nn.Module, name: str) -> None:
    if any(isinstance(module, Attention2d) for module in old.modules()):
        raise ConfigError(
            f"an attention was inserted after {name}, or within it",
            got=type(old).__name__,
            remedy="remove_attention first, exchange, and insert again",
        )
