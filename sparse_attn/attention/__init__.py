"""Interchangeable 2D attention blocks, found by name.

Each file of this folder that registers an attention is imported here; its stem must be the registered name.
"""

from __future__ import annotations

import importlib
import pkgutil

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.randomness import draw_counts, restore_draws
from sparse_attn.attention.registration import (
    attentions,
    configure_attention,
    create_attention,
    list_attention,
    register_attention,
)
from sparse_attn.errors import ConfigError

_SUPPORT = {"base", "check_report", "checking", "health", "probing", "randomness", "registration", "settings"}


def _import_siblings() -> None:
    for module in pkgutil.iter_modules(__path__):
        if module.name in _SUPPORT:
            continue
        before = set(attentions)
        importlib.import_module(f"{__name__}.{module.name}")
        added = set(attentions) - before
        if added != {module.name}:
            raise ConfigError(
                f"attention/{module.name}.py must register one attention under its own stem",
                expected=repr(module.name),
                got=sorted(added) or "none",
                remedy="rename the file or the attention",
            )


_import_siblings()

from sparse_attn.attention.check_report import CheckReport, LayerCheck  # noqa: E402
from sparse_attn.attention.checking import check  # noqa: E402
from sparse_attn.attention.health import Health, attention_health, health  # noqa: E402
from sparse_attn.attention.nlsa import use_rotations  # noqa: E402
from sparse_attn.attention.probing import Probe, probe  # noqa: E402

__all__ = [
    "Attention2d",
    "CheckReport",
    "Health",
    "LayerCheck",
    "Probe",
    "attention_health",
    "attentions",
    "check",
    "configure_attention",
    "create_attention",
    "draw_counts",
    "health",
    "list_attention",
    "probe",
    "register_attention",
    "restore_draws",
    "use_rotations",
]
