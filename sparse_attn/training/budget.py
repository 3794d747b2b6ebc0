"""A schedule that fits the time there is: the learning rate ends at zero when the minutes are up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

from sparse_attn.training.config import Stage

_NOMINAL_STEPS = 5


class Budget:
    """Turns wall-clock time into places on a stage's schedule.

    A stage's schedule runs from 0 to `stage.steps`. Without a budget each step moves one place. With one, a step moves
    as many places as let the schedule end together with the stage's part of the minutes, by the speed measured so
    far, again and again.

    Args:
        minutes: from now to the end of the run, all stages, validations and files included; None for no limit.
        clock: seconds.
    """

    def __init__(self, minutes: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.end = None if minutes is None else clock() + 60.0 * minutes
        self.deadline: float | None = None
        self.reserve = 0.0
        self._spent: deque[float] = deque(maxlen=50)

    def begin(self, stage: Stage, later: tuple[Stage, ...], *, position: float = 0.0) -> None:
        """Gives a stage its part of what is left: the rest is for `later` stages.

        Call it once for each stage, before its first step or, at its `position`, where a resumed run goes on.
        """
        self._spent.clear()
        if self.end is not None:
            now = self.clock()
            own = stage.weight * max(0.0, 1.0 - position / stage.steps)
            part = own / max(own + sum(s.weight for s in later), 1e-12)
            self.deadline = now + part * max(0.0, self.end - now)

    def keep_for_the_end(self, seconds: float) -> None:
        """Time that a stage's end takes: its validation and files, seconds. The longest one seen counts."""
        self.reserve = max(self.reserve, seconds)

    def note_step(self, seconds: float) -> None:
        """A step has taken so long, everything that happens once a step included."""
        self._spent.append(seconds)

    def places(self, position: float, stage: Stage) -> float:
        """How far the next step moves from `position` on a schedule of `stage.steps` places.

        The first steps, in which the network may be compiled, move one place each (or what the schedule has left).
        """
        left = stage.steps - position
        if self.deadline is None:
            return 1.0
        if len(self._spent) < _NOMINAL_STEPS:
            over = self.clock() >= self.deadline
            return left if over else min(1.0, left)
        seconds = self.deadline - self.reserve - self.clock()
        steps = int(seconds / max(median(self._spent), 1e-9))
        return left / max(1, steps)
