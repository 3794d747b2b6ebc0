"""The recipe: what a training run does, every field checked when it is made."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparse_attn.errors import ConfigError, unknown_name

SCHEDULES = ("cosine", "halving")
PRECISIONS = ("bf16", "float32")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
TRACKERS = ("tensorboard", "wandb")


def _at_least(where: str, least: float, **values: float) -> None:
    for name, value in values.items():
        if not (value >= least and math.isfinite(value)):
            raise ConfigError(f"{where}bad {name}", expected=f"at least {least}", got=value)


def _positive(where: str, **values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{where}bad {name}", expected="a positive number", got=value)


def _one_of(where: str, choices: tuple[str, ...], **values: str) -> None:
    for name, value in values.items():
        if value not in choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            raise ConfigError(
                f"{where}bad {name}",
                expected=" or ".join(choices),
                got=repr(value),
                remedy=f"did you mean {close[0]}?" if close else None,
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of training with its own schedule.

    Args:
        name: for the log and the file of its weights: letters, digits, `_` and `-`.
        steps: optimizer steps; with a time budget only their number relative to `warmup` and `halve_every` matters.
        lr: peak learning rate; it rises linearly over `warmup` steps and ends at zero (`cosine`), or is halved every
            `halve_every` steps (`halving`).
        batch: patches a process takes at once; a step sees batch * accumulate * processes of them.
        patch: side of the LR patch, pixels.
        attention: False trains the network with its attention slots empty; the next stage then starts with
            zero-initialised attention, so it goes on from exactly this function.
        schedule: `cosine` or `halving`.
        warmup: steps.
        halve_every: steps, for `halving`.
        optimizer: a name of timm's `list_optimizers()`; the recipe's, with its arguments, where None.
        optimizer_args: further arguments of the stage's own optimizer.
        share: of a time budget, relative to the other stages', of which all have one or none; where None, steps *
            batch * patch².
    """

    name: str
    steps: int
    lr: float
    batch: int = 16
    patch: int = 48
    attention: bool = True
    schedule: str = "cosine"
    warmup: int = 0
    halve_every: int = 0
    optimizer: str | None = None
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    share: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ConfigError("bad stage name", expected="letters, digits, _ and -", got=repr(self.name))
        where = f"stage {self.name!r}: "
        _at_least(where, 1, steps=self.steps, batch=self.batch, patch=self.patch)
        _at_least(where, 0, warmup=self.warmup)
        _positive(where, lr=self.lr, **({} if self.share is None else {"share": self.share}))
        _one_of(where, SCHEDULES, schedule=self.schedule)
        if self.schedule == "halving" and self.halve_every < 1:
            raise ConfigError(f"{where}halving needs halve_every", expected="at least 1", got=self.halve_every)
        if not isinstance(self.optimizer_args, Mapping) or (self.optimizer_args and self.optimizer is None):
            raise ConfigError(
                f"{where}bad optimizer_args",
                expected="key: value lines, beside the stage's own optimizer",
                got=repr(self.optimizer_args),
            )
        if self.warmup >= self.steps and self.schedule == "cosine" and self.warmup > 0:
            raise ConfigError(f"{where}bad warmup", expected=f"less than steps = {self.steps}", got=self.warmup)

    @property
    def weight(self) -> float:
        """Its part of a time budget, relative to that of other stages."""
        return float(self.steps * self.batch * self.patch**2) if self.share is None else self.share


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what a training run does.

    Args:
        model: a registered model.
        stages: in order.
        train: folder of training images or `.tar` shards.
        val: folder of HR images whose PSNR is logged; the last averaged weights are what a run gives.
        init: model folder or weights file to start from, or None; a tail of another scale is adapted where it can be.
        model_config: overrides of the model's configuration.
        seed: of weights, patches and rotations.
        ema: largest decay of the averaged weights that are validated and shipped; step t uses 1 - (1 + t)^(-2/3)
            where that is smaller.
        optimizer: a name of timm's `list_optimizers()`.
        optimizer_args: further arguments of the optimizer.
        weight_decay: of matrices and kernels.
        betas: where the optimizer has them.
        eps: likewise.
        precision: `bf16` (autocast) or `float32`.
        channels_last: keep pixels' channels together in memory, which convolutions in bf16 want.
        fused: Adam and AdamW update all parameters in one kernel.
        clip_grad: largest norm of the gradient of all parameters together, or None.
        accumulate: batches whose gradients make one step.
        grad_checkpointing: residual blocks are computed again in the backward pass instead of being kept.
        compile: compile the network: true, false or a mode of `torch.compile`.
        workers: processes that make batches; 0 makes them in a thread.
        trackers: `tensorboard`, `wandb`, beside `log.jsonl`.
        max_skipped: steps in a row whose loss or gradient is not finite, after which the run stops.
        val_every: steps between validations.
        val_images: how many images of `val` these use.
        final_val_images: how many the end of a stage uses, at least `val_images`; None: all.
        health: log at each validation what `attention_health` measures on its first image.
        save_minutes: minutes between checkpoints.
    """

    model: str
    stages: tuple[Stage, ...]
    train: str
    val: str
    init: str | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    ema: float = 0.999
    optimizer: str = "adam"
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    precision: str = "bf16"
    channels_last: bool = True
    fused: bool = True
    clip_grad: float | None = None
    accumulate: int = 1
    grad_checkpointing: bool = False
    compile: bool | str = False
    workers: int = 0
    trackers: tuple[str, ...] = ()
    max_skipped: int = 10
    val_every: int = 500
    val_images: int = 6
    final_val_images: int | None = None
    health: bool = False
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a recipe needs stages", expected="at least one, of distinct names", got=names)
        for name in ("model_config", "optimizer_args"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(f"bad {name}", expected="key: value lines", got=repr(getattr(self, name)))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("bad betas", expected="two numbers, 0 <= beta < 1", got=list(self.betas))
        _positive("", eps=self.eps, save_minutes=self.save_minutes)
        if self.clip_grad is not None:
            _positive("", clip_grad=self.clip_grad)
        _one_of("", PRECISIONS, precision=self.precision)
        if not isinstance(self.compile, bool):
            _one_of("", COMPILE_MODES, compile=self.compile)
        for tracker in self.trackers:
            _one_of("", TRACKERS, trackers=tracker)
        if not 0 <= self.ema < 1:
            raise ConfigError("bad ema", expected="0 <= ema < 1", got=self.ema)
        _at_least("", 0, weight_decay=self.weight_decay, workers=self.workers)
        _at_least(
            "",
            1,
            accumulate=self.accumulate,
            max_skipped=self.max_skipped,
            val_every=self.val_every,
            val_images=self.val_images,
        )
        if self.final_val_images is not None:
            _at_least("", self.val_images, final_val_images=self.final_val_images)
        if len({stage.share is None for stage in self.stages}) > 1:
            raise ConfigError("bad share", expected="one for each stage, or for none", got="one for some stages")
        if self.accumulate > 1 and self.compile in ("reduce-overhead", "max-autotune"):
            raise ConfigError(
                f"compile: {self.compile} keeps gradients in a CUDA graph, where they cannot be accumulated",
                got=f"accumulate: {self.accumulate}",
                remedy="accumulate: 1, or compile: true",
            )
        self._check_optimizers()

    def _check_optimizers(self) -> None:
        from timm.optim import list_optimizers

        known = [str(name) for name in list_optimizers()]
        for name in {self.optimizer, *(stage.optimizer for stage in self.stages if stage.optimizer)}:
            if name not in known:
                raise unknown_name("optimizer", name, known)
