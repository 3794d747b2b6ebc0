"""What `create_model` built a model from, remembered on the model itself, so that it can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

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
    setattr(model, ATTRIBUTE, Origin(origin.model, copied(origin.config)))


def origin_of(model: nn.Module) -> Origin | None:
    """What `create_model` noted, or None: for models that were built otherwise."""
    noted = getattr(unwrapped(model), ATTRIBUTE, None)
    return noted if isinstance(noted, Origin) else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DataParallel, DistributedDataParallel or `torch.compile`, or itself."""
    while ATTRIBUTE not in vars(model) and {name for name, _ in model.named_children()} in WRAPPED:
        model = next(model.children())
    return model


def copied(value: Any) -> Any:
    """Mappings and sequences with all that they hold, as dicts and lists of their own."""
    if isinstance(value, Mapping):
        return {key: copied(inner) for key, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list | tuple) else value
