"""A budget ends the schedule when the time is up, whatever a step takes."""

from __future__ import annotations

import pytest

from sparse_attn.training import Stage
from sparse_attn.training.budget import Budget


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _run(budget: Budget, clock: _Clock, stage: Stage, seconds_of_step: list[float] | float) -> tuple[int, list[float]]:
    position, places, steps = 0.0, [], 0
    while position < stage.steps - 1e-6:
        move = budget.places(position, stage)
        spent = seconds_of_step if isinstance(seconds_of_step, float) else seconds_of_step[steps]
        clock.now += spent
        budget.note_step(spent)
        position += move
        places.append(move)
        steps += 1
    assert position == pytest.approx(stage.steps)
    return steps, places


def test_without_one_each_step_is_a_place() -> None:
    stage = Stage(name="s", steps=37, lr=1.0)
    budget = Budget(None)
    budget.begin(stage, ())
    steps, places = _run(budget, _Clock(), stage, 100.0)
    assert steps == 37
    assert set(places) == {1.0}


@pytest.mark.parametrize("seconds", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("nominal", [10, 100_000])
def test_the_schedule_ends_with_the_time(seconds: float, nominal: int) -> None:
    clock = _Clock()
    stage = Stage(name="s", steps=nominal, lr=1.0)
    budget = Budget(2.0, clock=clock)
    budget.begin(stage, ())
    budget.keep_for_the_end(7.0)
    _run(budget, clock, stage, seconds)
    left = 1120.0 - 7.0 - clock.now
    # The first steps move one place each, which alone ends a schedule of a few.
    assert left >= -seconds
    if nominal > 1000:
        assert left < 3 * seconds


def test_a_change_of_speed_is_followed() -> None:
    clock = _Clock()
    stage = Stage(name="s", steps=100_000, lr=1.0)
    budget = Budget(2.0, clock=clock)
    budget.begin(stage, ())
    compile_first = [30.0, *[0.5] * 60, *[1.0] * 1000]
    steps, _ = _run(budget, clock, stage, compile_first)
    assert 1118.0 < clock.now <= 1122.0
    assert steps == pytest.approx(1 + 60 + 60, abs=3)


def test_stages_share_the_time() -> None:
    clock = _Clock()
    first = Stage(name="a", steps=9, lr=1.0, batch=1, patch=1, share=1.0)
    second = Stage(name="b", steps=9, lr=1.0, batch=1, patch=1, share=3.0)
    budget = Budget(4.0, clock=clock)
    budget.begin(first, (second,))
    assert budget.deadline == pytest.approx(1060.0)
    clock.now = 1080.0
    budget.begin(second, ())
    assert budget.deadline == pytest.approx(1240.0)


def test_a_stage_that_goes_on_gets_what_it_has_left() -> None:
    clock = _Clock()
    first = Stage(name="a", steps=100, lr=1.0, share=2.0)
    second = Stage(name="b", steps=9, lr=1.0, share=3.0)
    budget = Budget(4.0, clock=clock)
    budget.begin(first, (second,), position=50.0)
    assert budget.deadline == pytest.approx(1000.0 + 240.0 / 4)
    budget.begin(second, (), position=9.0)
    assert budget.deadline == pytest.approx(1000.0)


def test_a_stage_without_a_share_counts_its_pixels() -> None:
    assert Stage(name="a", steps=10, lr=1.0, batch=2, patch=3).weight == 180


def test_no_time_left_is_one_step() -> None:
    clock = _Clock()
    stage = Stage(name="s", steps=50, lr=1.0)
    budget = Budget(0.1, clock=clock)
    clock.now += 100
    budget.begin(stage, ())
    steps, _ = _run(budget, clock, stage, 1.0)
    assert steps == 1
