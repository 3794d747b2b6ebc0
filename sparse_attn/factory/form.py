"""What is written down of a shared model: the configuration and the edits that build it again as it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparse_attn.attention import Attention2d, attentions
from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError
from sparse_attn.factory.building import unallocated
from sparse_attn.factory.origin import Origin, copied
from sparse_attn.surgery import apply_edits, model_edits
from sparse_attn.surgery.record import current_settings, edit_of

Edits = list[dict[str, Any]]
# Matters of the machine, and of how training goes; the first weights are not those that are saved.
PASSING = {"backend", "zero_init", "training", "grad_checkpointing", "inplace", "momentum"}


def shared_form(model: nn.Module, origin: Origin) -> tuple[dict[str, Any], Edits]:
    """The configuration, JSON-able, and the edits that build what the model is now, settings changed later included.

    Args:
        model: without wrappers.
        origin: what it was built from.

    Raises:
        ConfigError: the configuration is not JSON-able, or there is none: modules were exchanged other than with
            `swap_attention`, attributes were changed, or a setting differs between the attentions.
    """
    config = _plain(origin)
    edits = model_edits(model)
    rebuilt = _rebuilt(model, origin.model, config, edits)
    if changed := _changed_settings(model, rebuilt):
        config["attention_kwargs"] = {**(config.get("attention_kwargs") or {}), **_common(model, changed)}
        if left := _changed_settings(model, _rebuilt(model, origin.model, config, edits)):
            raise _not_alike(origin.model, left)
    return config, edits


def _plain(origin: Origin) -> dict[str, Any]:
    config = {key: _by_name(value) for key, value in copied(origin.config).items()}
    if isinstance(settings := config.get("attention_kwargs"), Mapping):
        config["attention_kwargs"] = {key: value for key, value in settings.items() if key != "backend"}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the configuration of {origin.model} is not JSON-able",
            got=str(error),
            remedy="use registered names in place of classes and functions: register_attention",
        ) from error
    return plain


def _rebuilt(model: nn.Module, name: str, config: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> nn.Module:
    """A model of this configuration with these edits; the same one, as far as it can be told without its weights."""
    # Edits carry weights over, so they want memory.
    built = None if edits else unallocated(lambda: models.get(name).build(**config))
    if built is None:
        # It draws random weights, which is nothing to the caller.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            built = models.get(name).build(**config)
            apply_edits(built, edits)
    ours, theirs = (_signature(module) for module in (model, built))
    differing = sorted(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
    if not differing:
        ours, theirs = _attributes(model), _attributes(built)
        # What others add to a module says nothing of what it computes.
        differing = sorted(key for key, value in theirs.items() if ours.get(key) != value)
    if differing:
        raise ConfigError(
            f"the model is not what its configuration as {name} builds",
            got=f"other modules, shapes or values at {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}",
            remedy="share what create_model built; or pass model_name= and config= that build this model",
        )
    return built


def _signature(model: nn.Module) -> dict[str, object]:
    kinds = {f"{name} (module)": type(module) for name, module in model.named_modules()}
    return {**kinds, **{name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}}


def _attributes(model: nn.Module) -> dict[str, object]:
    """The plain attributes of the modules whose attributes are known to be configuration: this package's and torch's.

    Settings of attentions are left out: those can be written down.
    """
    found: dict[str, object] = {}
    for where, module in model.named_modules():
        if type(module).__module__.partition(".")[0] not in ("sparse_attn", "torch"):
            continue
        skipped = PASSING | (set(current_settings(module)) if isinstance(module, Attention2d) else set())
        for key, value in vars(module).items():
            if not key.startswith("_") and key not in skipped and isinstance(value, str | int | float | tuple):
                found[f"{where}.{key}".lstrip(".")] = value
    return found


def _changed_settings(model: nn.Module, built: nn.Module) -> dict[str, dict[str, Any]]:
    """For each attention, by its dotted name, the arguments whose values differ, with the model's."""
    theirs = {name: _settings(attention) for name, attention in _attentions(built).items()}
    found = {
        name: {key: value for key, value in _settings(attention).items() if theirs[name].get(key) != value}
        for name, attention in _attentions(model).items()
    }
    return {name: settings for name, settings in found.items() if settings}


def _common(model: nn.Module, changed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments among those changed that have one value in all attentions that are not edits."""
    blocks = [_settings(attention) for attention in _attentions(model).values() if edit_of(attention) is None]
    common: dict[str, Any] = {}
    for key in {key for settings in changed.values() for key in settings}:
        values = [block[key] for block in blocks if key in block]
        if values and all(value == values[0] for value in values):
            common[key] = list(values[0]) if isinstance(values[0], tuple) else values[0]
    return common


def _settings(attention: Attention2d) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in current_settings(attention).items()
        if key not in PASSING
    }


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
