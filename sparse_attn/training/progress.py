"""What a run has done between two lines of its log, and how long its end will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sparse_attn.errors import TrainingError
from sparse_attn.training.learner import Outcome

if TYPE_CHECKING:
    from sparse_attn.training.loop import Trainer


class Progress:
    """Sums up the steps since the last line of the log, and counts those in a row that were not finite.

    Args:
        trainer: whose log.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.in_a_row = 0
        self._reset()

    def _reset(self) -> None:
        assert self.trainer.learner is not None
        self.mark, self.waited = time.monotonic(), self.trainer.learner.loader.waited
        self.steps, self.finite = 0, list[Outcome]()

    def add(self, outcome: Outcome) -> None:
        """Notes a step.

        Raises:
            TrainingError: `max_skipped` steps in a row were not finite.
        """
        trainer = self.trainer
        self.steps += 1
        assert trainer.learner is not None
        trainer.stages_run[-1]["samples"] += trainer.learner.samples_a_step
        if outcome.finite:
            self.finite.append(outcome)
            self.in_a_row = 0
            return
        self.in_a_row += 1
        trainer.skipped += 1
        trainer.log(skipped=trainer.skipped, reason=f"loss {outcome.loss}, gradient norm {outcome.grad_norm}")
        if self.in_a_row >= trainer.recipe.max_skipped:
            newest = next(iter(trainer.checkpoints.paths()), None)
            raise TrainingError(
                f"the loss or its gradient was not finite in {self.in_a_row} steps in a row, up to step "
                f"{trainer.step} of stage {trainer.stage.name!r}",
                got=f"loss {outcome.loss}, gradient norm {outcome.grad_norm}",
                remedy=f"lower lr, set clip_grad, or use precision: float32, in another --out folder; "
                f"{f'--init {newest} starts from before' if newest else 'no checkpoint was written yet'}",
            )

    def leave_out(self, seconds: float) -> None:
        """A validation counts as the run's time, not as the steps'."""
        self.trainer.seconds += seconds
        self.mark += seconds

    def log(self) -> None:
        """Writes a line about the steps since the last one."""
        trainer = self.trainer
        assert trainer.learner is not None
        if self.steps == 0:
            return
        spent = time.monotonic() - self.mark
        trainer.seconds += spent
        done = trainer.stages_run[-1]
        done["seconds"] += spent
        done["steps"] = trainer.step
        if self.finite:
            loss = sum(o.loss for o in self.finite) / len(self.finite)
            norm = sum(o.grad_norm for o in self.finite) / len(self.finite)
            waited = (trainer.learner.loader.waited - self.waited) / max(spent, 1e-9)
            trainer.log(
                loss=round(loss, 6),
                grad_norm=float(f"{norm:.4g}"),
                lr=trainer.learner.rate,
                s_per_step=round(spent / self.steps, 4),
                data_wait=round(waited, 4),
                seconds=round(trainer.seconds, 1),
            )
        self._reset()


def time_the_end(trainer: Trainer) -> float:
    """Seconds that the validation and the files at the end of a stage will take, by trying them now."""
    assert trainer.learner is not None
    images, looked = len(trainer.validation.pairs), min(trainer.recipe.val_images, len(trainer.validation.pairs))
    # The first forward pass may compile and look for the fastest kernels.
    bf16, device = trainer.recipe.precision == "bf16", trainer.accelerator.device
    trainer.validation.measure(trainer.learner.average.module, device=device, bf16=bf16, images=1)
    began = time.monotonic()
    trainer.validate(looked)
    validated = time.monotonic()
    trainer.save()
    # A checkpoint, the best one, and the weights in two forms.
    return (validated - began) * images / looked + 3 * (time.monotonic() - validated)
