"""Models by name: what there is, how it is configured, and building it with the right weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention import attentions
from sparse_attn.backbones import AttentionSpec, models, register_model
from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.factory.building import build, check_dtype, described_by, move, place_of
from sparse_attn.factory.origin import Origin, remember
from sparse_attn.factory.source import Source, find_source
from sparse_attn.surgery import load_checkpoint
from sparse_attn.weights import HubAccess, list_pretrained, read_weights

__all__ = ["create_model", "is_model", "list_models", "model_config", "register_model"]


class _Own(Enum):
    """The default of arguments for which None means something else."""

    OWN = "the model's own"

    def __repr__(self) -> str:
        return f"<{self.value}>"


OWN = _Own.OWN


def create_model(
    name: str,
    pretrained: bool = False,  # noqa: FBT001, FBT002 - create_model(name, True), as timm has it
    *,
    checkpoint: str | Path | Mapping[str, Tensor] | None = None,
    attention: AttentionSpec | _Own = OWN,
    attention_at: Sequence[int] | _Own = OWN,
    attention_kwargs: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **config: Any,
) -> nn.Module:
    """Builds a model, in training mode.

    Args:
        name: one of `list_models()`; or `hf-hub:organisation/name`, also with `@revision`, a repository of the Hugging
            Face Hub; or `local-dir:path`, a folder that `save_pretrained` wrote. The last two name model, configuration
            and what was inserted and exchanged since, in their `config.json`.
        pretrained: load the weights: of the zoo, the repository or the folder. Without it only the configuration is
            taken. Weights fit any attention that has the same parameters as the model's own.
        checkpoint: other weights to load: a file, a folder or a state dict, in any layout `load_checkpoint` knows. What
            `save_checkpoint` noted of inserted and exchanged attentions is done first.
        attention: a registered name, a class or factory, or None to leave every slot empty.
        attention_at: slot positions; the model's own, or where it has none those of NLSN: before the first block and
            after every eighth (of RCAN's groups, every fifth).
        attention_kwargs: settings of the attention, merged over the model's own. Where `attention` is another one, only
            those of the model's own settings are kept that it takes too.
        device: where the model is built; `meta` allocates nothing.
        dtype: of parameters and buffers: float64, float32, float16 or bfloat16.
        revision: a branch, tag or commit of a repository of the Hub.
        token: for private repositories of the Hub; None for the one logged in with.
        cache_dir: where downloads from the Hub are kept; None for the place of `huggingface_hub`.
        local_files_only: take what was downloaded before, without asking the Hub, as HF_HUB_OFFLINE=1 has it.
        config: other arguments of the model's builder, see `model_config(name)`.

    Raises:
        UnknownNameError: no such model, attention or argument; the message lists close matches.
        ConfigError: arguments that exclude each other or do not fit.
        WeightsError: no weights to be had, damaged ones, or ones that do not fit the overridden model; no repository,
            no access to it, no connection; or no `config.json` of this package.
    """
    if pretrained and checkpoint is not None:
        raise ConfigError(
            "pretrained and checkpoint exclude each other", got="both", remedy="pass one: both are weights to load"
        )
    check_dtype(dtype)
    place = place_of(device)
    access = HubAccess(revision, token, cache_dir, local_files_only)
    source = find_source(name, access, pretrained=pretrained)
    slots = {"attention": attention, "attention_at": attention_at, "attention_kwargs": attention_kwargs or OWN}
    given = [key for key, value in slots.items() if value is not OWN]
    _refuse_undone(source, given)
    with described_by(source, [*config, *given]):
        own = source.entry.full_config(**source.trained)
        overrides = {**config, **_slots({**own, **config}, attention, attention_at, attention_kwargs)}
        model = build(source, {**own, **overrides}, place)
    move(model, place, dtype)
    if source.folder is not None:
        _load_pretrained(model, source, source.folder, overrides)
    elif checkpoint is not None:
        load_checkpoint(model, checkpoint)
    remember(model, Origin(source.entry.name, {**own, **overrides}))
    return model


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """The sorted names that match a shell wildcard; with `pretrained` those whose weights are on this machine."""
    names = models.names(pattern)
    return sorted(set(names) & set(list_pretrained())) if pretrained else names


def is_model(name: str) -> bool:
    """Whether `create_model` knows the name."""
    return name in models


def model_config(name: str) -> dict[str, Any]:
    """Every argument of the model's builder with its value, JSON-able; a class is given as `module:name`.

    Raises:
        UnknownNameError: no such model.
    """

    def plain(value: object) -> object:
        if isinstance(value, Mapping):
            return dict(value)
        return (
            f"{value.__module__}:{value.__qualname__}"
            if inspect.isroutine(value) or inspect.isclass(value)
            else repr(value)
        )

    config: dict[str, Any] = json.loads(json.dumps(models.get(name).full_config(), default=plain))
    return config


def _slots(
    own: Mapping[str, Any],
    attention: AttentionSpec | _Own,
    places: Sequence[int] | _Own,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The builder's arguments for the slots that differ from the model's own."""
    changed: dict[str, Any] = {}
    before = own.get("attention")
    after = before if attention is OWN else attention
    if attention is not OWN:
        changed["attention"] = attention
    if places is not OWN:
        changed["attention_at"] = places
    if after is None:
        if attention is OWN and (settings or changed.get("attention_at")):
            raise ConfigError(
                "attention_at or attention_kwargs without an attention", got="none", remedy="pass attention= too"
            )
        return changed
    if places is OWN and not own.get("attention_at", OWN):
        changed["attention_at"] = _usual_places(own)
    kept = dict(own.get("attention_kwargs") or {})
    if after != before:
        takes = inspect.signature(attentions.get(after) if isinstance(after, str) else after).parameters
        kept = {key: value for key, value in kept.items() if key in takes}
    if after != before or settings:
        changed["attention_kwargs"] = {**kept, **(settings or {})}
    return changed


def _refuse_undone(source: Source, given: Sequence[str]) -> None:
    """Exchanged attentions are exchanged anew after building, and would undo what is asked for."""
    if given and any(edit.get("edit") == "swap" for edit in source.edits):
        raise ConfigError(
            f"{source.file} exchanges attentions after the model is built, whatever it is built with",
            got=", ".join(given),
            remedy="create it without, then swap_attention(model, ...)",
        )


def _usual_places(config: Mapping[str, Any]) -> list[int]:
    if "n_resgroups" in config:
        return list(range(0, config["n_resgroups"] + 1, 5))
    return list(range(0, config.get("n_resblocks", 0) + 1, 8))


def _load_pretrained(model: nn.Module, source: Source, folder: Path, overrides: Mapping[str, Any]) -> None:
    try:
        weights = read_weights(folder, recorded_only=True)
    except WeightsError as error:
        if source.remedy is None:
            raise
        raise WeightsError(error.problem, expected=error.expected, got=error.got, remedy=source.remedy) from error
    try:
        load_checkpoint(model, weights)
    except WeightsError as error:
        if not overrides:
            raise
        raise WeightsError(
            f"the pretrained weights of {source.entry.name} do not fit with {', '.join(sorted(overrides))} changed",
            got=str(error.got),
            remedy="drop these arguments, or pretrained=True, or use an attention with the same parameters",
        ) from error
