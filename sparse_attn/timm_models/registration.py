"""The models of this package in timm's registry, without touching a name of timm's."""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_attn.backbones import ModelEntry, models
from sparse_attn.errors import ConfigError
from sparse_attn.timm_models import sparse_attn_models
from sparse_attn.timm_models.building import entrypoint, for_colours
from sparse_attn.weights import local_weights

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def register() -> list[str]:
    """Registers with timm every registered model that it does not have yet, or whose weights have come since.

    Returns:
        The names that were registered by this call.

    Raises:
        ConfigError: timm, or another package, has models of such a name; nothing is registered then.
    """
    import timm
    from timm.models import DefaultCfg, register_model

    taken = [name for name in models if timm.is_model(name) and not _is_ours(name)]
    if taken:
        raise ConfigError(
            "timm has other models of these names", got=", ".join(taken), remedy="register yours under another name"
        )
    fresh = []
    for name in models:
        cfg = DefaultCfg(tags=deque([""]), cfgs={"": _data_config(models.get(name))})
        if timm.is_model(name) and sparse_attn_models.default_cfgs[name] == cfg:
            continue
        sparse_attn_models.default_cfgs[name] = cfg
        function = entrypoint(name)
        setattr(sparse_attn_models, name, function)
        with warnings.catch_warnings():
            # Of our own former one, with the weights as they were.
            warnings.filterwarnings("ignore", message=f"Overwriting {name} in registry")
            register_model(function)
        fresh.append(name)
    return fresh


def _is_ours(name: str) -> bool:
    import timm

    return timm.model_entrypoint(name).__module__ == sparse_attn_models.__name__


def _data_config(entry: ModelEntry) -> PretrainedCfg:
    """What timm wants to know of a model's input and weights; colours go in as they are, from 0 to `rgb_range`."""
    from timm.models import PretrainedCfg

    weights: Path | None = local_weights(entry.name)
    return PretrainedCfg(
        file=None if weights is None else str(weights),
        hf_hub_id=entry.hub_id,
        architecture=entry.name,
        interpolation="bicubic",
        crop_pct=1.0,
        num_classes=0,
        first_conv="head",
        **for_colours(entry.full_config()),
    )
