"""Insertions and exchanges undone."""

from __future__ import annotations

from torch import nn

from sparse_attn.attention import Attention2d
from sparse_attn.errors import ConfigError
from sparse_attn.surgery.names import Where, choose, names_of
from sparse_attn.surgery.record import CHILD, edit_of, refuse_wrapped, remember, take_out
from sparse_attn.surgery.swap import Exchange


def remove_attention(model: nn.Module, where: Where = "*") -> list[str]:
    """Undoes `insert_attention` and `swap_attention`, in place.

    An inserted attention goes, and the network is what it was before: the same modules, the same names. An exchanged
    one becomes again what it was, with the weights it has now.

    Args:
        model: the network.
        where: as for `swap_attention`, of the attentions that were inserted or exchanged. Those the network was built
            with stay.

    Returns:
        The dotted names of the attentions that were removed or restored.

    Raises:
        ConfigError: nothing matches; or one of them cannot be restored: a block of another library, or one whose
            weights were not all carried over. Then nothing has changed.
    """
    refuse_wrapped(model)
    edited = {module: own for module, own in names_of(model).items() if edit_of(module) is not None}
    if not edited:
        raise ConfigError(
            "no attention to remove",
            expected="one that was inserted or exchanged",
            got=type(model).__name__,
            remedy="attentions that a network was built with are left out by building it without: attention=None",
        )
    chosen = choose(edited, where, below=True)
    restored, hosts = [], []
    for module, own in chosen.items():
        edit = edit_of(module)
        if edit is not None and edit.kind == "insert":
            hosts.append(_host(model, module, own[0]))
        else:
            restored.append(_restoring(module, own))
    for exchange in restored:
        exchange.commit(model)
    for host in hosts:
        take_out(host)
    return [own[0] for own in chosen.values()]


def _host(model: nn.Module, module: nn.Module, name: str) -> nn.Module:
    host = model.get_submodule(name.rpartition(".")[0])
    if host._modules.get(CHILD) is not module:
        raise ConfigError(
            f"{name} is not where it was inserted", expected=f"a child {CHILD}", remedy="take it out where it is now"
        )
    return host


def _restoring(module: nn.Module, names: list[str]) -> Exchange:
    edit = edit_of(module)
    was = dict(edit.was) if edit is not None and edit.was is not None else {}
    if not isinstance(module, Attention2d) or "attention" not in was:
        raise ConfigError(
            f"{names[0]} cannot become what it was",
            got=was.get("type", "unknown"),
            remedy="build the network anew",
        )
    exchange = Exchange(module, names, was["attention"], was["settings"])
    if exchange.report.lost:
        raise ConfigError(
            f"{names[0]} cannot become what it was",
            got="; ".join(exchange.report.lost),
            remedy="build the network anew",
        )
    remember(exchange.new, None)
    return exchange
