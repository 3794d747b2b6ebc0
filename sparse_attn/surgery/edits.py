"""What was done to a network, as data that is saved with its weights and done again on load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparse_attn.attention import Attention2d, attentions
from sparse_attn.errors import ConfigError
from sparse_attn.surgery.channels import Seen, certain
from sparse_attn.surgery.foreign import is_foreign
from sparse_attn.surgery.insert import build_like, check_hosts, like_around
from sparse_attn.surgery.names import names_of
from sparse_attn.surgery.record import (
    CHILD,
    HOOK,
    IN_ROW,
    Edit,
    arguments_of,
    bare,
    current_settings,
    edit_of,
    jsonable,
    place,
    refuse_wrapped,
    registered_name,
    remember,
    runs,
    take_out,
)
from sparse_attn.surgery.swap import Exchange

Undo = Callable[[], None]
KEYS = {
    "insert": {"edit", "after", "by", "attention", "channels", "settings"},
    "swap": {"edit", "at", "was", "attention", "channels", "settings"},
}

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}


def model_edits(model: nn.Module) -> list[dict[str, Any]]:
    """What `insert_attention` and `swap_attention` have done to a network, as JSON can hold it.

    Settings are the present ones, `configure_attention` included, and all of them: later defaults change nothing.
    `backend` is left out, for it is a matter of the machine.

    Args:
        model: the network; a compiled or distributed wrapper around it is looked through.

    Returns:
        In the order of the modules, of an inserted attention `{"edit": "insert", "after", "by", "attention",
        "channels", "settings"}`, of an exchanged one `{"edit": "swap", "at", "was", "attention", "channels",
        "settings"}`. In a network of several dtypes an inserted one has `"dtype"` as well, if it is not the dtype of
        the weights of the module that it follows.

    Raises:
        ConfigError: an attention is not where it was inserted, is no longer run there, or its class is not registered.
    """
    network = bare(model)
    return [
        _describe(network, name, module, edit)
        for name, module in network.named_modules()
        if isinstance(module, Attention2d) and (edit := edit_of(module)) is not None
    ]


def apply_edits(model: nn.Module, edits: Iterable[Mapping[str, Any]]) -> None:
    """Does to a network what `model_edits` says of another, in place; the network is not run.

    Inserted attentions start as they did when they were first inserted, exchanged ones carry the weights that they
    find, as in `swap_attention`.

    Args:
        model: a network of the same modules, without these edits.
        edits: what `model_edits` returned.

    Raises:
        ConfigError: edits that are none, or do not fit the network. Then nothing has changed.
        UnknownNameError: an attention or setting that this version does not have.
    """
    do_edits(model, edits)


def do_edits(model: nn.Module, edits: Iterable[Mapping[str, Any]]) -> list[Undo]:
    """`apply_edits`; calling what it returns, in reverse order, undoes it."""
    refuse_wrapped(model)
    names = names_of(model)
    modules = {name: module for module, own in names.items() for name in own}
    checked = [checked_edit(edit) for edit in edits]
    hosts: dict[nn.Module, str] = {}
    planned: list[tuple[Callable[[], None], Undo]] = []
    for edit in checked:
        target = str(edit["after"] if edit["edit"] == "insert" else edit["at"])
        module = modules.get(target)
        if module is None or module in hosts:
            problem = "has no such module" if module is None else "would be edited twice there"
            raise ConfigError(
                f"the edits do not fit: {type(model).__name__} {problem}", got=target, remedy=_SAME_NETWORK
            )
        hosts[module] = target
        planned.append(
            _insertion(model, module, edit) if edit["edit"] == "insert" else _swap(model, module, names[module], edit)
        )
    for do, _ in planned:
        do()
    return [undo for _, undo in planned]


_SAME_NETWORK = "build the network that the edits were made on"


def _describe(model: nn.Module, name: str, module: Attention2d, edit: Edit) -> dict[str, Any]:
    parent, _, last = name.rpartition(".")
    attention = registered_name(module)
    if attention is None or (edit.kind == "insert" and (last != CHILD or not parent)):
        raise ConfigError(
            f"the edit of {name or 'the model'} cannot be described",
            expected="a registered attention, where it was inserted",
            got=type(module).__name__,
            remedy="take it out and insert it again",
        )
    if edit.kind == "insert" and not runs(model.get_submodule(parent), edit):
        raise ConfigError(
            f"{parent} no longer runs the attention after it",
            expected="the module it was inserted after, with its forward hooks",
            got=type(model.get_submodule(parent)).__name__,
            remedy="convert or freeze batch norms first, then insert",
        )
    settings = _without_backend(jsonable(current_settings(module)))
    what = {"attention": attention, "channels": module.channels, "settings": settings}
    if edit.kind == "insert":
        return {"edit": "insert", "after": parent, "by": edit.by, **what, **_own_dtype(model, module, parent)}
    was = dict(edit.was or {})
    if "settings" in was:
        was["settings"] = _without_backend(was["settings"])
    return {"edit": "swap", "at": name, "was": was, **what}


def _own_dtype(model: nn.Module, attention: Attention2d, after: str) -> dict[str, str]:
    """The dtype of an inserted attention if nothing around it says so: a norm may have wider weights than its maps."""
    dtype = attention.value.weight.dtype
    if dtype == like_around(model, model.get_submodule(after)).dtype:
        return {}
    return {"dtype": str(dtype).removeprefix("torch.")}


def _without_backend(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "backend"}


def checked_edit(edit: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `edit`.

    Raises:
        ConfigError: it is none.
        UnknownNameError: of an attention that is not registered.
    """
    kind = edit.get("edit") if isinstance(edit, Mapping) else None
    fields = KEYS.get(str(kind))
    optional = {"dtype"} if kind == "insert" else set()
    good = (
        fields is not None
        and fields <= set(edit) <= fields | optional
        and isinstance(edit["settings"], Mapping)
        and type(edit["channels"]) is int
        and edit.get("by", HOOK) in (HOOK, IN_ROW)
        and isinstance(edit.get("was", {}), Mapping)
        and edit.get("dtype", "float32") in tuple(DTYPES)
    )
    if not good:
        raise ConfigError("not an edit", expected="what model_edits returns", got=repr(edit))
    attentions.get(str(edit["attention"]))
    return edit


def _insertion(model: nn.Module, host: nn.Module, edit: Mapping[str, Any]) -> tuple[Callable[[], None], Undo]:
    check_hosts({host: edit["after"]})
    if isinstance(host, Attention2d):
        raise ConfigError(f"the edits do not fit: {edit['after']} is an attention itself", remedy=_SAME_NETWORK)
    known = certain(host)
    if known is not None and known.channels != edit["channels"]:
        raise ConfigError(
            f"the edits do not fit: {edit['after']} has other channels",
            expected=edit["channels"],
            got=known.channels,
            remedy=_SAME_NETWORK,
        )
    if edit["by"] == IN_ROW and not any(True for _ in host.children()):
        raise ConfigError(
            f"the edits do not fit: {edit['after']} runs no children", got=type(host).__name__, remedy=_SAME_NETWORK
        )
    built = {**arguments_of(edit["attention"]), **edit["settings"]}
    dtype = DTYPES[edit["dtype"]] if "dtype" in edit else None
    module = build_like(model, host, edit["attention"], Seen(edit["channels"], dtype=dtype), built)
    record = Edit("insert", jsonable(built), by=edit["by"])
    return lambda: place(host, module, record), lambda: take_out(host)


def _swap(
    model: nn.Module, old: nn.Module, names: Sequence[str], edit: Mapping[str, Any]
) -> tuple[Callable[[], None], Undo]:
    if not (isinstance(old, Attention2d) or is_foreign(old)):
        raise ConfigError(
            f"the edits do not fit: {names[0]} is no attention", got=type(old).__name__, remedy=_SAME_NETWORK
        )
    exchange = Exchange(old, names, edit["attention"], edit["settings"])
    if exchange.report.channels != edit["channels"]:
        raise ConfigError(
            f"the edits do not fit: {names[0]} has other channels",
            expected=edit["channels"],
            got=exchange.report.channels,
            remedy=_SAME_NETWORK,
        )
    record = edit_of(exchange.new)
    if record is not None:
        remember(exchange.new, replace(record, was=dict(edit["was"])))
    return lambda: exchange.commit(model), lambda: exchange.undo(model)
