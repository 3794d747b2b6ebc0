"""What timm's registry calls to build a model of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from sparse_attn.backbones import SlottedNetwork
from sparse_attn.errors import ConfigError
from sparse_attn.factory import create_model, origin_of
from sparse_attn.timm_models import sparse_attn_models

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

FEATURES = 4
# Any size will do: this is that of the patches that the paper trains with.
SIDE = 48


def entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build a model, with timm's own arguments and those of our `create_model`."""

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: FBT001, FBT002 - as timm calls it
        return _build(name, kwargs, pretrained=pretrained)

    build.__name__ = build.__qualname__ = name
    build.__module__ = sparse_attn_models.__name__
    build.__doc__ = f"Builds {name}, see `sparse_attn.create_model`."
    return build


def for_colours(config: Mapping[str, Any]) -> dict[str, Any]:
    """What timm wants to know of a model's input; colours go in as they are, from 0 to `rgb_range`."""
    channels, white = config.get("in_chans", 3), config.get("rgb_range", 1.0)
    return {
        "input_size": (channels, SIDE, SIDE),
        "mean": (0.0,) * channels,
        "std": (1.0 / white,) * channels,
    }


def _build(name: str, kwargs: dict[str, Any], *, pretrained: bool) -> nn.Module:
    from timm.models import build_model_with_cfg, resolve_pretrained_cfg

    if kwargs.pop("num_classes", 0):
        raise ConfigError(f"{name} has no classes", expected="num_classes=0, or none", remedy="drop num_classes")
    of_timm = {key: kwargs.pop(key) for key in ("pretrained_cfg", "pretrained_cfg_overlay") if key in kwargs}
    for_features = {key: kwargs.pop(key) for key in ("features_only", "out_indices", "feature_cls") if key in kwargs}
    # The arguments of a source checkpoint, for models that resize its weights; ours are taken as they are.
    kwargs.pop("pretrained_model_args", None)
    cfg = resolve_pretrained_cfg(name, **of_timm)
    source, weights = _source(name, cfg)
    model = create_model(source, **(weights if pretrained else {}), **kwargs)
    built = origin_of(model)
    if built is None or built.model != name:
        raise ConfigError(f"{source} does not hold {name}", got=None if built is None else built.model)
    features: dict[str, Any] = {}
    if for_features.get("features_only"):
        if not isinstance(model, SlottedNetwork):
            raise ConfigError(f"{name} gives no features", expected="a SlottedNetwork", got=type(model).__name__)
        features = {"feature_cls": "getter", "out_indices": min(FEATURES, len(model.feature_info))}
    # The weights are in the model already; timm adds what it keeps on every model of its own.
    finish: Any = partial(build_model_with_cfg, partial(_as_built, model), name, pretrained=False)
    finished: nn.Module = finish(
        pretrained_cfg=_of_its_colours(cfg, name, built.config),
        feature_cfg=features,
        kwargs_filter=("num_classes", "global_pool", "in_chans"),
        **for_features,
    )
    return finished


def _as_built(model: nn.Module) -> nn.Module:
    return model


def _of_its_colours(cfg: PretrainedCfg, name: str, config: Mapping[str, Any]) -> PretrainedCfg:
    """The data configuration for the channels and the white of this model, where nothing else was asked for."""
    unasked = (sparse_attn_models.default_cfgs[name].default, type(cfg)())
    own = {
        key: value
        for key, value in for_colours(config).items()
        if getattr(cfg, key) in [getattr(other, key) for other in unasked]
    }
    return replace(cfg, **own)


def _source(name: str, cfg: PretrainedCfg) -> tuple[str, dict[str, Any]]:
    """What `create_model` is to build, and its arguments for the weights, by timm's configuration of them."""
    registered = sparse_attn_models.default_cfgs[name].default
    if cfg.state_dict is not None:
        return name, {"checkpoint": cfg.state_dict}
    if cfg.file and cfg.source == "local-dir":
        return f"local-dir:{cfg.file}", {"pretrained": True}
    if cfg.file and cfg.file != registered.file:
        return name, {"checkpoint": cfg.file}
    if cfg.url:
        raise ConfigError(
            "weights are not fetched from a bare URL",
            got=cfg.url,
            remedy="download them, then pass pretrained_cfg_overlay=dict(file=path)",
        )
    if cfg.hf_hub_id and cfg.hf_hub_id != registered.hf_hub_id:
        return f"hf-hub:{cfg.hf_hub_id}", {"pretrained": True}
    return name, {"pretrained": True}
