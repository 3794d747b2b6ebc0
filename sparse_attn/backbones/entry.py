"""What a registered model is: a builder and the configuration that makes it that model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparse_attn.errors import ConfigError, unknown_name
from sparse_attn.registry import Registry


@dataclass(frozen=True)
class ModelEntry:
    """A builder and its configuration; `build(**overrides)` makes the module.

    Args:
        name: the registered name.
        builder: a class or function with keyword-only arguments.
        config: what distinguishes this model from the builder's defaults.
        hub_id: the Hugging Face Hub repository that holds its weights, or None.
    """

    name: str
    builder: Callable[..., nn.Module]
    config: Mapping[str, Any]
    hub_id: str | None = None

    def full_config(self, **overrides: Any) -> dict[str, Any]:
        """Every argument of the builder with its value: defaults, then this entry's, then `overrides`.

        Raises:
            UnknownNameError: an override that the builder does not take.
        """
        parameters = inspect.signature(self.builder).parameters
        known = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
        for name in overrides:
            if name not in parameters:
                raise unknown_name(f"argument of {self.name}", name, parameters)
        return {**known, **self.config, **overrides}

    def build(self, **overrides: Any) -> nn.Module:
        """The module, with random weights."""
        return self.builder(**self.full_config(**overrides))


models: Registry[ModelEntry] = Registry("model")


def register_model(
    name: str, builder: Callable[..., nn.Module], *, hub_id: str | None = None, **config: Any
) -> ModelEntry:
    """Files `builder(**config)` under `name`, for `create_model` and `list_models`.

    Args:
        name: a lower-case identifier.
        builder: a class or function that takes `config` as keyword arguments and returns a module with an integer
            attribute `scale`.
        hub_id: the Hugging Face Hub repository of its weights.
        config: the arguments that make it this model.

    Raises:
        ConfigError: the name is taken, or `config` has an argument that `builder` does not take.
    """
    unknown = sorted(set(config) - set(inspect.signature(builder).parameters))
    if unknown:
        raise ConfigError(f"model {name!r} has arguments its builder does not take", got=", ".join(unknown))
    return models.register(name)(ModelEntry(name, builder, config, hub_id))
