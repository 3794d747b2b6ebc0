"""Turns, their order, and what happens to those that fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_attn.benchmark.bars import Bar
from sparse_attn.benchmark.gate import TOLERANCE
from sparse_attn.benchmark.rates import Rates
from sparse_attn.benchmark.remote import Remote, WorkerError
from sparse_attn.benchmark.subject import Subject
from sparse_attn.benchmark.turns import measure, measure_case
from tests.benchmark.support import NETWORK, RATES, SMALL, TRAINING, Here, setup


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_attn.benchmark.rates._CPU_SIDES", (32, 64))
    # Each collects garbage first, which takes long in a process as full as this one.
    monkeypatch.setattr("sparse_attn.benchmark.turns.MEMORY_RUNS", 1)


class Noted(Here):
    """Notes who is asked what."""

    asked: list[tuple[str, ...]]

    def __init__(self, make: Callable[..., Any], *arguments: Any, threads: int) -> None:
        super().__init__(make, *arguments, threads=threads)
        self.name = arguments[0]

    def call(self, method: str, *arguments: Any) -> Any:
        self.asked.append((self.name, method, *arguments))
        return super().call(method, *arguments)


def test_contenders_take_turns_after_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noted, "asked", [], raising=False)
    rows = measure_case(setup(runs=2), SMALL, ["authors", "blocked"], RATES, start=Noted)
    turn = [(name, "seconds", run) for name in ("authors", "blocked") for run in ("forward", "both")]
    gates = [(name, what) for name in ("authors", "blocked") for what in ("prepare", "gate")]
    memory = [(name, "memory", run) for name in ("authors", "blocked") for run in ("forward", "both")]
    assert Noted.asked == gates + 3 * turn + memory
    for row in rows:
        assert row.problem is None
        assert {run: len(values) for run, values in row.seconds.items()} == {"forward": 2, "both": 2}
        assert row.fraction.keys() == row.seconds.keys() == row.first.keys()


def test_whoever_fails_the_gate_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCE, False, 0.0)
    (row,) = measure_case(setup(), SMALL, ["eager"], RATES, start=Here)
    assert row.failed and row.problem == "its result is wrong"
    assert row.errors["output"] > 0 and row.seconds == {} and row.memory == {}


def test_one_that_breaks_down_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fragile(Noted):
        def call(self, method: str, *arguments: Any) -> Any:
            if self.name == "nla" and len([a for a in self.asked if a[:2] == ("nla", "seconds")]) == 3:
                raise WorkerError("its process ended with code -9")
            return super().call(method, *arguments)

    monkeypatch.setattr(Noted, "asked", [], raising=False)
    broken, other = measure_case(setup(runs=3), SMALL, ["nla", "eager"], RATES, start=Fragile)
    assert broken.problem == "its process ended with code -9" and broken.seconds == {} and not broken.failed
    assert other.problem is None and len(other.seconds["both"]) == 3


@pytest.mark.parametrize(
    ("case", "name", "run"), [(NETWORK, "network auto", "forward"), (TRAINING, "training auto bf16", "step")]
)
def test_networks_and_training_run(case, name: str, run: str) -> None:
    (row,) = measure_case(setup(runs=2), case, [name], RATES, start=Here)
    assert row.problem is None and row.seconds.keys() == {run} and len(row.seconds[run]) == 2


def test_a_training_step_trains() -> None:
    subject = Subject("training eager bf16", TRAINING, "cpu")
    before = [p.detach().clone() for p in subject.module.parameters()]
    subject.seconds("step")
    trained = [p for p in subject.module.parameters() if p.requires_grad]
    assert trained and any(not torch.equal(a, b) for a, b in zip(before, subject.module.parameters(), strict=True))


def test_rates_are_positive() -> None:
    rates = Rates("cpu", (32, 64)).rates()
    assert rates.keys() == {"float32", "bf16", "copy"} and all(value > 1e6 for value in rates.values())


def test_a_run_from_end_to_end() -> None:
    said: list[str] = []
    bar = Bar(case=SMALL, contender="eager", against=("authors",), run="both", wanted=1e-6)
    entries = [(SMALL, ("authors", "eager")), (replace(SMALL, side=1), ("authors",))]
    kept: list[int] = []
    record = measure(
        setup(runs=2),
        entries,
        [bar],
        say=said.append,
        start=Here,
        keep=lambda record: kept.append(len(record.rows)),
        command="a command",
    )
    assert kept == [2, 3]
    assert [row.problem for row in record.rows] == [
        None,
        None,
        "the authors' code needs as many tokens as a bucket holds",
    ]
    assert all(len(values) == 2 and min(values) > 0 for row in record.rows[:2] for values in row.seconds.values())
    assert record.bars[0].met and record.rates["float32"] > 1e6
    assert said[1] == "8 ch, 11x11, batch 2, r=2: authors, eager" and record.command == "a command"


class Moody:
    """Fails in the ways a contender may fail."""

    def threads(self) -> int:
        return torch.get_num_threads()

    def no_memory(self) -> None:
        raise RuntimeError("can't allocate memory: you tried to allocate 102 GB\nand more")

    def end(self) -> None:
        os._exit(3)


def test_a_worker_tells_its_errors_and_its_end() -> None:
    worker = Remote(Moody, threads=1)
    try:
        with pytest.raises(WorkerError, match=r"102 GB$"):
            worker.call("no_memory")
        assert worker.call("threads") == 1
        with pytest.raises(WorkerError, match="its process ended with code 3"):
            worker.call("end")
        with pytest.raises(WorkerError, match="its process ended"):
            worker.call("threads")
    finally:
        worker.close()
    assert not worker.process.is_alive()
