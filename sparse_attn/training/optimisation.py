"""Optimizer, schedule and averaged weights of a stage, all timm's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparse_attn.errors import ConfigError
from sparse_attn.training.config import Recipe, Stage

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler
    from timm.utils import ModelEmaV3

_FUSED = frozenset({"adam", "adamw"})


def make_optimizer(model: nn.Module, recipe: Recipe, stage: Stage) -> torch.optim.Optimizer:
    """Timm's `create_optimizer_v2`; Adam and AdamW in their fused form.

    Raises:
        ConfigError: the optimizer does not take `optimizer_args`.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info

    name = stage.optimizer or recipe.optimizer
    info = get_optimizer_info(name)
    options: dict[str, Any] = {"betas": recipe.betas} if info.has_betas else {}
    options |= {"eps": recipe.eps} if info.has_eps else {}
    options |= {"fused": True} if recipe.fused and name in _FUSED else {}
    options |= recipe.optimizer_args if stage.optimizer is None else stage.optimizer_args
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model, opt=name, lr=stage.lr, weight_decay=recipe.weight_decay, **options
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer {name!r} cannot be made", got=str(error), remedy="check optimizer_args, betas and eps"
        ) from error
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, stage: Stage) -> Scheduler:
    """Timm's `create_scheduler_v2`, counted in steps: `step_update(t)` sets the rate of step t (0-based, any real).

    The rate of the first step is lr / warmup; that of step `steps`, which is never taken, is zero for `cosine`.
    """
    from timm.scheduler import create_scheduler_v2

    halving = stage.schedule == "halving"
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="step" if halving else "cosine",
        num_epochs=stage.steps - (0 if halving else stage.warmup),
        decay_epochs=stage.halve_every,
        decay_rate=0.5,
        warmup_epochs=stage.warmup,
        warmup_lr=stage.lr / max(1, stage.warmup),
        warmup_prefix=not halving,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return schedule


def make_average(model: nn.Module, recipe: Recipe) -> ModelEmaV3:
    """Timm's `ModelEmaV3`, whose decay warms up; `update(model, step=number of updates so far)`."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=recipe.ema, use_warmup=True)
