"""What a stage trains with, and one step of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.attention import draw_counts, restore_draws
from sparse_attn.data import PatchLoader, PatchSampler, TileCache
from sparse_attn.errors import ConfigError
from sparse_attn.training.config import Recipe, Stage
from sparse_attn.training.optimisation import make_average, make_optimizer, make_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    Args:
        loss: mean absolute error over the batches of all processes, image range 0..1.
        grad_norm: norm of the gradient of all parameters together, before clipping.
    """

    loss: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether the step was taken: neither the loss nor the gradient was infinite or NaN."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Learner:
    """Network, optimizer, schedule, averaged weights and batches of one stage.

    Args:
        model: the network with its initial weights.
        recipe: the run's.
        stage: the stage.
        seed: of its patches.
        cache: training images.
        accelerator: the processes; `batch` patches go to each.
        rgb_range: the value of white in the network's input and output.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        recipe: Recipe,
        stage: Stage,
        seed: int,
        cache: TileCache,
        accelerator: Accelerator,
        rgb_range: float = 1.0,
    ) -> None:
        self.recipe, self.stage, self.accelerator, self.rgb_range = recipe, stage, accelerator, rgb_range
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model = model.to(accelerator.device).to(memory_format=self.layout).train()
        self.average = make_average(self.model, recipe)
        self.averaged = 0
        if recipe.grad_checkpointing:
            _checkpoint_gradients(self.model, recipe.model)
        if recipe.compile:
            # In place, so that names in the state dict stay as they are.
            self.model.compile(mode=None if recipe.compile is True else recipe.compile)
        self.network: nn.Module = accelerator.prepare_model(self.model)
        self.optimizer = make_optimizer(self.model, recipe, stage)
        self.schedule = make_schedule(self.optimizer, stage)
        shard = (accelerator.process_index, accelerator.num_processes)
        sampler = PatchSampler(cache, patch=stage.patch, batch=stage.batch, seed=seed, shard=shard)
        self.loader = PatchLoader(sampler, device=accelerator.device, workers=recipe.workers)
        self.batches: Iterator[tuple[Tensor, Tensor]] | None = None

    @property
    def samples_a_step(self) -> int:
        """Patches of all processes and accumulated batches."""
        return self.stage.batch * self.recipe.accumulate * self.accelerator.num_processes

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, index: int, position: float) -> Outcome:
        """Step `index` (0-based, counting those skipped) at place `position` of the schedule.

        Where the outcome is not finite, the weights, their average and the optimizer are as before.
        """
        if self.batches is None:
            self.batches = self.loader.batches(index * self.recipe.accumulate)
        self.schedule.step_update(position)  # type: ignore[arg-type]
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(self.recipe.accumulate):
            whole = part == self.recipe.accumulate - 1
            with contextlib.nullcontext() if whole else self.accelerator.no_sync(self.network):
                loss = self._loss(*next(self.batches)) / self.recipe.accumulate
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad or math.inf)
        values = self.accelerator.reduce(torch.stack([total, norm.detach().float()]), reduction="mean")
        outcome = Outcome(*values.tolist())
        if outcome.finite:
            self.optimizer.step()
            self.averaged += 1
            self.average.update(self.model, step=self.averaged)
        return outcome

    def _loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bf16):
            out = self.network((lr * self.rgb_range).contiguous(memory_format=self.layout))
        return F.l1_loss(out.float() / self.rgb_range, hr)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, on the CPU."""
        return {name: tensor.detach().cpu() for name, tensor in self.average.module.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """The parts of a `RunState` that are this stage's."""
        return {
            "model": self.model.state_dict(),
            "ema": self.weights(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "draws": draw_counts(self.model),
        }

    def restore(self, state: Any) -> None:
        """Takes these parts of a `RunState`."""
        self.model.load_state_dict(state.model)
        self.average.module.load_state_dict(state.ema)
        self.averaged = state.averaged
        self.optimizer.load_state_dict(state.optimizer)
        restore_draws(self.model, state.draws)

    def close(self) -> None:
        """Ends the making of batches."""
        self.loader.close()
        self.accelerator.free_memory()


def check_stages(recipe: Recipe, cache: TileCache) -> None:
    """What would only be found wrong when a later stage begins, is found wrong now.

    Raises:
        ConfigError: an optimizer does not take its arguments.
        DataError: no image is as large as a patch.
    """
    for stage in recipe.stages:
        make_optimizer(nn.Conv2d(3, 3, 3), recipe, stage)
        PatchSampler(cache, patch=stage.patch, batch=stage.batch, seed=recipe.seed)


def _checkpoint_gradients(model: nn.Module, name: str) -> None:
    from sparse_attn.backbones import SlottedBody

    bodies = [module for module in model.modules() if isinstance(module, SlottedBody)]
    if not bodies:
        raise ConfigError(f"model {name!r} cannot recompute its blocks", remedy="grad_checkpointing: false")
    for body in bodies:
        body.set_grad_checkpointing()
