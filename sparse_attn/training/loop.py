"""The training loop: L1, Adam, a schedule, averaged weights, and checkpoints that a crash cannot spoil."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from sparse_attn.attention import draw_counts, restore_draws
from sparse_attn.backbones import models
from sparse_attn.data import PatchSampler, build_cache
from sparse_attn.errors import ConfigError, TrainingError
from sparse_attn.training.checkpoint import RunState, identity, load_state, save_state, save_whole
from sparse_attn.training.config import Recipe, Stage
from sparse_attn.training.start import initialise
from sparse_attn.training.validation import ValidationSet
from sparse_attn.weights import read_weights, write_zoo_folder


def learning_rate(stage: Stage, step: int) -> float:
    """The rate of step `step` (0-based): linear warm-up, then cosine to zero or repeated halving."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    if stage.schedule == "halving":
        return stage.lr * 0.5 ** (step // stage.halve_every)
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def _averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        warm = min(decay, (1.0 + int(count)) / (10.0 + int(count)))
        torch._foreach_lerp_(averaged, current, 1.0 - warm)

    return update


@contextlib.contextmanager
def _between_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits for the call of what this yields: raised within a step it would tear the state apart."""
    pressed = threading.Event()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


class Trainer:
    """Runs a recipe in a folder, or goes on with what it finds there.

    The folder gets `log.jsonl` (a line each 20 steps and each validation), `last.pt` (the checkpoint), `<stage>.pt`
    (averaged weights at the end of each stage) and at last `<model>/`, those of the last stage in zoo form.

    Args:
        recipe: what to do.
        out: the run's folder.
        device: where.
        report: called with a dictionary for every line of the log.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        device: torch.device | None = None,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.recipe, self.out, self.report = recipe, out, report
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = recipe.precision == "bf16"
        entry = models.get(recipe.model)
        self.config = entry.full_config(**recipe.model_config)
        self.entry = entry
        if self.config.get("in_chans", 3) != 3:
            raise ConfigError("training images are RGB", expected="in_chans: 3", got=self.config["in_chans"])
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("training runs as one process", got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}")
        self.rgb_range = float(self.config.get("rgb_range", 1.0))
        self.cache = build_cache(Path(recipe.train), self.config["scale"], progress=lambda s: report({"note": s}))
        self.validation = ValidationSet(Path(recipe.val), self.config["scale"])
        self.stage_index = self.step = self.total_step = 0
        self.seconds = 0.0
        out.mkdir(parents=True, exist_ok=True)

    def _log(self, **record: Any) -> None:
        line = {"stage": self.recipe.stages[self.stage_index].name, "step": self.step, **record}
        with open(self.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        self.report({**line, "steps": self.recipe.stages[self.stage_index].steps})

    def _begin_stage(self, weights: dict[str, Tensor] | None) -> None:
        stage = self.recipe.stages[self.stage_index]
        self.step = 0
        torch.manual_seed(self.recipe.seed)
        self.model = self.entry.build(**{**self.config, **({} if stage.attention else {"attention": None})})
        if weights is not None:
            self._log(init=initialise(self.model, weights))
        self.model.to(self.device).to(memory_format=torch.channels_last).train()
        self.average = AveragedModel(self.model, multi_avg_fn=_averaging(self.recipe.ema))
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=stage.lr, betas=self.recipe.betas, eps=self.recipe.eps
        )
        seed = self.recipe.seed * 1000 + self.stage_index
        self.sampler = PatchSampler(self.cache, patch=stage.patch, batch=stage.batch, seed=seed)

    def _averaged_weights(self) -> dict[str, Tensor]:
        module: nn.Module = self.average.module
        return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}

    def save(self) -> None:
        """Writes `last.pt`."""
        state = RunState(
            recipe=identity(self.recipe, self.cache),
            stage=self.stage_index,
            step=self.step,
            total_step=self.total_step,
            seconds=self.seconds,
            model=self.model.state_dict(),
            ema=self._averaged_weights(),
            averaged=int(self.average.n_averaged),
            optimizer=self.optimizer.state_dict(),
            draws=draw_counts(self.model),
        )
        save_state(self.out / "last.pt", state)

    def _resume(self) -> bool:
        path = self.out / "last.pt"
        if not path.is_file():
            return False
        state = load_state(path, recipe=identity(self.recipe, self.cache))
        self.stage_index = state.stage
        self._begin_stage(None)
        self.step, self.total_step, self.seconds = state.step, state.total_step, state.seconds
        self.model.load_state_dict(state.model)
        self.average.module.load_state_dict(state.ema)
        self.average.n_averaged.fill_(state.averaged)
        self.optimizer.load_state_dict(state.optimizer)
        restore_draws(self.model, state.draws)
        return True

    def train_step(self) -> float:
        """One optimizer step; returns the loss (mean absolute error, image range 0..1).

        Raises:
            TrainingError: the loss is not finite; the weights are as before, and nothing is saved.
        """
        stage = self.recipe.stages[self.stage_index]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, self.step)
        lr, hr = (t.to(self.device, memory_format=torch.channels_last) for t in self.sampler.batch_at(self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.model(lr * self.rgb_range)
        loss = F.l1_loss(out.float() / self.rgb_range, hr)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {self.step} of stage {stage.name!r} is not finite",
                got=value,
                remedy=f"{self.out / 'last.pt'}, where it exists, is from before; lower lr, or use precision: float32",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        self.total_step += 1
        return value

    def validate(self, images: int | None) -> float:
        """Mean validation PSNR of the averaged weights, dB; logged."""
        count = min(images or len(self.validation.pairs), len(self.validation.pairs))
        value = self.validation.measure(
            self.average.module, device=self.device, bf16=self.bf16, images=count, rgb_range=self.rgb_range
        )
        self._log(val_psnr=round(value, 4), val_images=count)
        return value

    def _run_stage(self, interruption: Callable[[], None]) -> None:
        stage = self.recipe.stages[self.stage_index]
        losses: list[float] = []
        saved = mark = time.monotonic()
        while self.step < stage.steps:
            interruption()
            losses.append(self.train_step())
            now = time.monotonic()
            if self.step % 20 == 0:
                self.seconds += now - mark
                speed, mark = (now - mark) / len(losses), now
                mean = sum(losses) / len(losses)
                rate = learning_rate(stage, self.step - 1)
                self._log(loss=round(mean, 6), lr=rate, s_per_step=round(speed, 4), seconds=round(self.seconds, 1))
                losses = []
            if self.step % self.recipe.val_every == 0 and self.step < stage.steps:
                looked = time.monotonic()
                self.validate(self.recipe.val_images)
                # The run's time includes validation, the time of a step does not.
                spent = time.monotonic() - looked
                self.seconds, mark = self.seconds + spent, mark + spent
            if now - saved > 60 * self.recipe.save_minutes:
                self.save()
                saved = now

    def run(self) -> dict[str, Tensor]:
        """Trains to the end of the last stage; returns the averaged weights.

        Ctrl-C lets the current step end and saves the state; after any other error the last checkpoint stands.
        """
        weights = None
        if not self._resume():
            if self.recipe.init is not None:
                weights = read_weights(self.recipe.init)
            self._begin_stage(weights)
        while True:
            with _between_steps() as interruption:
                try:
                    self._run_stage(interruption)
                except KeyboardInterrupt:
                    self.save()
                    raise
            self.save()
            self.validate(None)
            weights = self._averaged_weights()
            stage = self.recipe.stages[self.stage_index]
            save_whole(self.out / f"{stage.name}.pt", weights)
            if self.stage_index + 1 == len(self.recipe.stages):
                name, empty = self.recipe.model, {} if stage.attention else {"attention": None, "attention_at": ()}
                write_zoo_folder(self.out / name, weights, model=name, config={**self.config, **empty})
                return weights
            self.stage_index += 1
            self._begin_stage(weights)
