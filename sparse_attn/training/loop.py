"""The training loop: stages one after another, validated, logged, and saved so that a crash costs minutes at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_attn.backbones import models
from sparse_attn.data import build_cache
from sparse_attn.errors import ConfigError
from sparse_attn.training.budget import Budget
from sparse_attn.training.checkpoint import (
    Checkpoints,
    RunState,
    identity,
    random_state,
    save_whole,
    set_random_state,
)
from sparse_attn.training.config import Recipe, Stage
from sparse_attn.training.interruption import held_back
from sparse_attn.training.journal import Journal
from sparse_attn.training.learner import Learner, Outcome, check_stages
from sparse_attn.training.processes import agree, check_same_place, make_accelerator, start_trackers
from sparse_attn.training.progress import Progress, time_the_end
from sparse_attn.training.result import forget_result, is_finished, write_result
from sparse_attn.training.start import initialise
from sparse_attn.training.validation import ValidationSet
from sparse_attn.weights import read_weights

LOG_EVERY = 20
_DONE = 1e-6


class Trainer:
    """Runs a recipe in a folder, or goes on with what it finds there.

    The folder gets `log.jsonl` (a line each 20 steps and each validation), `checkpoints/` (the newest two, and the one
    with the best validation), `<stage>.pt` (averaged weights at the end of each stage) and at last `<model>/`: those
    of the last stage in zoo form, and `training.json`, how they were made.

    Under `torchrun` or `accelerate launch` all processes train together, each with batches of its own; the folder is
    then on a file system that they share.

    Args:
        recipe: what to do.
        out: the run's folder.
        device: where; by default CUDA where there is some.
        report: called with a dictionary for every line of the log, on the first process only.
        max_minutes: the schedule is stretched or shrunk so that the last stage ends within so many minutes from now;
            the recipe's `steps` then say how stages, warm-up and halvings relate, not how many steps there are.
        command: the command line, for `training.json`.

    Raises:
        ConfigError: a recipe that cannot be run here.
        DataError: no training or validation images.
        UnknownNameError: no such model.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        device: torch.device | None = None,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        max_minutes: float | None = None,
        command: str | None = None,
    ) -> None:
        if max_minutes is not None and not (max_minutes > 0 and math.isfinite(max_minutes)):
            raise ConfigError("bad max_minutes", expected="a positive number of minutes", got=max_minutes)
        self.budget = Budget(max_minutes)
        self.recipe, self.out, self.max_minutes, self.command = recipe, out, max_minutes, command
        self.entry = models.get(recipe.model)
        self.config = self.entry.full_config(**recipe.model_config)
        if self.config.get("in_chans", 3) != 3:
            raise ConfigError("training images are RGB", expected="in_chans: 3", got=self.config["in_chans"])
        self.rgb_range = float(self.config.get("rgb_range", 1.0))
        out.mkdir(parents=True, exist_ok=True)
        self.accelerator = make_accelerator(device, trackers=recipe.trackers, folder=out)
        self.main = bool(self.accelerator.is_main_process)
        self.report = report if self.main else lambda _: None
        # One process of a machine decodes and the others wait, however long that takes.
        self.cache = build_cache(Path(recipe.train), self.config["scale"], progress=self.note)
        check_stages(recipe, self.cache)
        self.validation = ValidationSet(Path(recipe.val), self.config["scale"])
        self.journal = Journal(out, enabled=self.main)
        self.checkpoints = Checkpoints(out / "checkpoints")
        self.stage_index = self.step = self.total_step = self.skipped = 0
        self.position = self.seconds = 0.0
        self.best = -math.inf
        self.stages_run: list[dict[str, Any]] = []
        self.learner: Learner | None = None

    @property
    def stage(self) -> Stage:
        """The stage the run is in."""
        return self.recipe.stages[self.stage_index]

    def run(self) -> dict[str, Tensor]:
        """Trains to the end of the last stage; returns the averaged weights.

        Ctrl-C, or SIGTERM, lets the current step end and saves the state; after any other error the last checkpoint
        stands. A run that has finished is not trained again.

        Raises:
            KeyboardInterrupt: interrupted, and saved.
            TrainingError: too many steps in a row were not finite.
        """
        start_trackers(self.accelerator, self.recipe.trackers, identity(self.recipe, self.cache))
        try:
            state = self.checkpoints.load(recipe=identity(self.recipe, self.cache), note=self.note)
            check_same_place(None if state is None else state.total_step, self.out)
            if self.main:
                self.checkpoints.tidy()
            self.accelerator.wait_for_everyone()
            if state is not None and is_finished(self.out, self.recipe, state):
                return read_weights(self.out / f"{self.recipe.stages[-1].name}.pt")
            if state is not None:
                self._resume(state)
            else:
                self.journal.rewind(0)
                if self.main:
                    forget_result(self.out, self.recipe)
                self._begin_stage(read_weights(self.recipe.init) if self.recipe.init is not None else None)
            while True:
                self._run_stage()
                weights = self._end_stage()
                if self.stage_index + 1 == len(self.recipe.stages):
                    return weights
                self.stage_index += 1
                self._begin_stage(weights)
        finally:
            if self.learner is not None:
                self.learner.close()
            if self.recipe.trackers:
                self.accelerator.end_training()

    def _begin_stage(self, weights: dict[str, Tensor] | None) -> None:
        stage = self.stage
        self.step, self.position = 0, 0.0
        torch.manual_seed(self.recipe.seed)
        model = self.entry.build(**{**self.config, **({} if stage.attention else {"attention": None})})
        if weights is not None:
            self.log(init=initialise(model, weights))
        if self.learner is not None:
            self.learner.close()
            self.learner = None
        self.learner = Learner(
            model,
            recipe=self.recipe,
            stage=stage,
            seed=self.recipe.seed * 1000 + self.stage_index,
            cache=self.cache,
            accelerator=self.accelerator,
            rgb_range=self.rgb_range,
        )
        self.stages_run.append({"seconds": 0.0, "steps": 0, "samples": 0})

    def _resume(self, state: RunState) -> None:
        self.stage_index = state.stage
        self._begin_stage(None)
        assert self.learner is not None
        self.learner.restore(state)
        self.step, self.total_step, self.position = state.step, state.total_step, state.position
        self.seconds, self.skipped, self.best = state.seconds, state.skipped, state.best
        self.stages_run = [dict(done) for done in state.stages]
        before, now = len(state.random), self.accelerator.num_processes
        if before == now:
            set_random_state(state.random[self.accelerator.process_index])
        else:
            self.note(f"{before} processes before and {now} now: the rest of the epoch is other patches")
        self.journal.rewind(state.log_lines)
        self.note(f"going on from step {self.total_step}")

    def save(self, *, best: bool = False) -> None:
        """Writes a checkpoint; with `best`, `best.pt` instead."""
        from accelerate.utils import gather_object

        assert self.learner is not None
        states = gather_object([random_state()])
        if not self.main:
            return
        state = RunState(
            recipe=identity(self.recipe, self.cache),
            stage=self.stage_index,
            step=self.step,
            total_step=self.total_step,
            position=self.position,
            seconds=self.seconds,
            skipped=self.skipped,
            best=self.best,
            stages=self.stages_run,
            log_lines=self.journal.lines,
            random=states,
            **self.learner.state(),
        )
        if best:
            self.checkpoints.save_best(state)
        else:
            self.checkpoints.save(state)

    def train_step(self) -> Outcome:
        """One step at the current place of the schedule."""
        assert self.learner is not None
        return self.learner.step(self.step, self.position)

    def validate(self, images: int | None) -> float:
        """Mean validation PSNR of the averaged weights, dB; logged. The best so far is kept."""
        assert self.learner is not None
        values = self.validation.measure_together(
            self.learner.average.module,
            self.accelerator,
            bf16=self.recipe.precision == "bf16",
            images=images,
            rgb_range=self.rgb_range,
        )
        mean = sum(values) / len(values)
        watched = self.recipe.health and self.main
        health = self.validation.health(self.learner.average.module, rgb_range=self.rgb_range) if watched else {}
        self.log(val_psnr=round(mean, 4), val_images=len(values), **health)
        # A stage's end measures more images than a look on the way: the same ones are compared.
        compared = values[: self.recipe.val_images]
        score = sum(compared) / len(compared)
        if score > self.best and self.step > 0:
            self.best = score
            self.save(best=True)
        return mean

    def _run_stage(self) -> None:
        self.budget.begin(self.stage, self.recipe.stages[self.stage_index + 1 :], position=self.position)
        with held_back() as interrupted:
            if self.max_minutes is not None:
                self.budget.keep_for_the_end(time_the_end(self))
            progress = Progress(self)
            saved = time.monotonic()
            while not self._stage_is_done():
                began = time.monotonic()
                due = began - saved > 60 * self.recipe.save_minutes
                places, due, stop = agree(
                    self.accelerator, places=self.budget.places(self.position, self.stage), due=due, stop=interrupted()
                )
                if stop:
                    progress.log()
                if due or stop:
                    self.save()
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
                outcome = self.train_step()
                self.step += 1
                self.total_step += 1
                self.position += places
                progress.add(outcome)
                if self.step % LOG_EVERY == 0 or self._stage_is_done():
                    progress.log()
                if self.step % self.recipe.val_every == 0 and not self._stage_is_done():
                    looked = time.monotonic()
                    self.validate(self.recipe.val_images)
                    progress.leave_out(time.monotonic() - looked)
                self.budget.note_step(time.monotonic() - began)
            self.save()
            if agree(self.accelerator, places=0.0, due=False, stop=interrupted())[2]:
                raise KeyboardInterrupt

    def _stage_is_done(self) -> bool:
        return self.position >= self.stage.steps - _DONE

    def _end_stage(self) -> dict[str, Tensor]:
        assert self.learner is not None
        began = time.monotonic()
        self.validate(self.recipe.final_val_images)
        self.seconds += time.monotonic() - began
        weights = self.learner.weights()
        if self.main:
            save_whole(self.out / f"{self.stage.name}.pt", weights)
            if self.stage_index + 1 == len(self.recipe.stages):
                write_result(self, weights)
        self.accelerator.wait_for_everyone()
        return weights

    def note(self, text: str) -> None:
        """Tells `report`."""
        self.report({"note": text})

    def log(self, **record: Any) -> None:
        """Writes a line to the log, the trackers and `report`."""
        line = {"stage": self.stage.name, "step": self.step, "total_step": self.total_step, **record}
        self.journal.write(line)
        if self.recipe.trackers:
            numbers = {k: v for k, v in record.items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=self.total_step)
        self.report({**line, "steps": self.stage.steps, "progress": self.position / self.stage.steps})
