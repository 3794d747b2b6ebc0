"""What `create_model` built a model from, remembered on the model itself, so that it can be shared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparse_attn.attention import Attention2d, attentions
from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError

# An attribute, since copies and pickles of the model keep it; its name is not one that a builder's module would have.
ATTRIBUTE = "sparse_attn_origin"
WRAPPED = ({"module"}, {"_orig_mod"})


@dataclass(frozen=True)
class Origin:
    """The registered name and the whole configuration that a model was built from.

    Args:
        model: the registered name.
        config: every argument of its builder.
    """

    model: str
    config: Mapping[str, Any]


def remember(model: nn.Module, origin: Origin) -> None:
    """Notes on a model where it comes from."""
    setattr(model, ATTRIBUTE, Origin(origin.model, _copied(origin.config)))


def origin_of(model: nn.Module) -> Origin | None:
    """What `create_model` noted, or None: for models that were built otherwise."""
    noted = getattr(unwrapped(model), ATTRIBUTE, None)
    return noted if isinstance(noted, Origin) else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DataParallel, DistributedDataParallel or `torch.compile`, or itself."""
    while ATTRIBUTE not in vars(model) and {name for name, _ in model.named_children()} in WRAPPED:
        model = next(model.children())
    return model


def shared_form(model: nn.Module, origin: Origin) -> dict[str, Any]:
    """The configuration, JSON-able, that builds what the model is now, attention settings changed later included.

    Args:
        model: without wrappers.
        origin: what it was built from.

    Raises:
        ConfigError: the configuration is not JSON-able, or there is none: modules were exchanged after construction,
            or a setting differs between the attentions.
    """
    config = {key: _by_name(value) for key, value in _copied(origin.config).items()}
    try:
        config = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the configuration of {origin.model} is not JSON-able",
            got=str(error),
            remedy="use registered names in place of classes and functions: register_attention",
        ) from error
    rebuilt = _rebuilt(model, origin.model, config)
    if changed := _changed_settings(model, rebuilt):
        config["attention_kwargs"] = {**(config.get("attention_kwargs") or {}), **_common(model, changed)}
        if left := _changed_settings(model, _rebuilt(model, origin.model, config)):
            raise _not_alike(origin.model, left)
    return config


def _rebuilt(model: nn.Module, name: str, config: Mapping[str, Any]) -> nn.Module:
    """A model of this configuration, without memory; the same one, as far as names, shapes and classes tell."""
    with torch.device("meta"):
        built = models.get(name).build(**config)
    ours, theirs = (_signature(module) for module in (model, built))
    if ours != theirs:
        differing = sorted({key for key, _ in ours.items() ^ theirs.items()})
        raise ConfigError(
            f"the model is not what its configuration as {name} builds",
            got=f"other modules or shapes at {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}",
            remedy="share what create_model built; or pass model_name= and config= that build this model",
        )
    return built


def _signature(model: nn.Module) -> dict[str, object]:
    kinds = {f"{name} (module)": type(module) for name, module in model.named_modules()}
    return {**kinds, **{name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}}


def _changed_settings(model: nn.Module, built: nn.Module) -> dict[str, dict[str, Any]]:
    """For each attention, by its dotted name, the settings whose values differ, with the model's."""
    pairs = zip(_attentions(model).items(), _attentions(built).values(), strict=True)
    found = {
        name: {key: getattr(ours, key) for key in ours.settings if getattr(ours, key) != getattr(theirs, key)}
        for (name, ours), theirs in pairs
    }
    return {name: settings for name, settings in found.items() if settings}


def _common(model: nn.Module, changed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings among those changed that have one value in all attentions."""
    blocks = list(_attentions(model).values())
    common: dict[str, Any] = {}
    for key in {key for settings in changed.values() for key in settings}:
        values = [getattr(block, key) for block in blocks if key in block.settings]
        if all(value == values[0] for value in values):
            common[key] = list(values[0]) if isinstance(values[0], tuple) else values[0]
    return common


def _attentions(model: nn.Module) -> dict[str, Attention2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention2d)}


def _not_alike(name: str, left: Mapping[str, Mapping[str, Any]]) -> ConfigError:
    where, settings = next(iter(left.items()))
    return ConfigError(
        f"no configuration of {name} has these attention settings",
        got=f"{', '.join(f'{key}={value!r}' for key, value in settings.items())} at {where}",
        remedy="give all attentions the same, with configure_attention(model, ...)",
    )


def _by_name(value: object) -> object:
    """The registered name of an attention's class; anything else as it is."""
    return next((name for name in attentions if attentions.get(name) is value), value)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value
