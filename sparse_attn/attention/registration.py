"""The registry of attentions and what is done with it by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from sparse_attn.attention.base import Attention2d
from sparse_attn.errors import ConfigError, unknown_name
from sparse_attn.registry import Registry

attentions: Registry[type[Attention2d]] = Registry("attention")


def register_attention(name: str) -> Callable[[type[Attention2d]], type[Attention2d]]:
    """A class decorator that files an attention under `name`.

    Args:
        name: a lower-case identifier; inside this package also the stem of the class's file.

    Raises:
        ConfigError: the name is taken, or the class is not an `Attention2d`.
    """
    file = attentions.register(name)

    def add(cls: type[Attention2d]) -> type[Attention2d]:
        if not (isinstance(cls, type) and issubclass(cls, Attention2d)):
            raise ConfigError(f"cannot register {name!r}", expected="a subclass of Attention2d", got=repr(cls))
        return file(cls)

    return add


def list_attention(pattern: str = "*") -> list[str]:
    """The sorted names of the attentions that match a shell wildcard."""
    return attentions.names(pattern)


def create_attention(name: str, channels: int, **kwargs: Any) -> Attention2d:
    """Builds an attention block by name.

    Args:
        name: one of `list_attention()`.
        channels: C of the (B, C, H, W) maps it will work on.
        kwargs: its keyword arguments.

    Raises:
        UnknownNameError: no such attention, or no such argument; the message lists close matches.
        ConfigError: a bad value.
    """
    cls = attentions.get(name)
    parameters = [p for p in inspect.signature(cls).parameters if p != "channels"]
    for argument in kwargs:
        if argument not in parameters:
            raise unknown_name(f"argument of attention {name!r}", argument, parameters)
    return cls(channels, **kwargs)


def configure_attention(model: nn.Module, **settings: Any) -> int:
    """Changes settings of every attention in a model, for instance the rounds it tests with (Table 3).

    A setting reaches each attention that has it. Nothing changes if a value is bad anywhere.

    Args:
        model: an attention, or a module that contains some.
        settings: `rounds`, `bucket_size`, `seed`, `rehash`, `backend`, or any other an attention has.

    Returns:
        How many attentions were changed.

    Raises:
        ConfigError: no attention in the model, or a bad value.
        UnknownNameError: no attention in the model has such a setting.
    """
    blocks = [m for m in model.modules() if isinstance(m, Attention2d)]
    if not blocks:
        raise ConfigError(
            "nothing to configure", expected="a model with attention", got=type(model).__name__, remedy="insert one"
        )
    known = {name for block in blocks for name in block.settings}
    for name in settings:
        if name not in known:
            raise unknown_name("attention setting", name, known)
    plan = [(b, {n: b.settings[n](v) for n, v in settings.items() if n in b.settings}) for b in blocks]
    for block, own in plan:
        block.configure(**own)
    return sum(bool(own) for _, own in plan)
