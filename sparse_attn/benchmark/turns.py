"""A run: every case, its contenders in turns, one computing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from sparse_attn.benchmark.bars import Bar
from sparse_attn.benchmark.cases import Case, Entry
from sparse_attn.benchmark.contenders import CONTENDERS, find, why_not
from sparse_attn.benchmark.gate import passes
from sparse_attn.benchmark.rates import Rates
from sparse_attn.benchmark.record import Record, Row, Setup, describe_machine
from sparse_attn.benchmark.remote import Remote, WorkerError
from sparse_attn.benchmark.subject import Subject
from sparse_attn.inference.memory import free_memory

MEMORY_RUNS = 3


class Worker(Protocol):
    """What a `Remote` is to this file."""

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of its object returns."""

    def close(self) -> None:
        """Ends it."""


Start = Callable[..., Worker]
Say = Callable[[str], None]


def measure(
    setup: Setup,
    entries: Iterable[Entry],
    bars: Iterable[Bar] = (),
    *,
    say: Say = lambda _: None,
    start: Start = Remote,
    keep: Callable[[Record], None] = lambda _: None,
    command: str | None = None,
) -> Record:
    """Checks, times and judges.

    Args:
        setup: how.
        entries: the cases and their contenders.
        bars: what to judge in the end.
        say: called with a line before each case.
        start: starts a worker, as `start(make, *arguments, threads=...)`.
        keep: called with the record after each case, so that what interrupts a run loses one case only.
        command: the command line, for the record.
    """
    bars = list(bars)
    say("the machine's rates")
    worker = start(Rates, setup.device, threads=setup.threads)
    try:
        rates: dict[str, float] = worker.call("rates")
    finally:
        worker.close()
    record = Record(setup, describe_machine(setup.device), rates, command=command)
    for case, names in entries:
        say(f"{case.label}: {', '.join(names)}")
        record.rows += measure_case(setup, case, names, rates, start=start)
        record.bars = [bar.judge(record.rows) for bar in bars]
        keep(record)
    return record


def measure_case(
    setup: Setup, case: Case, names: Iterable[str], rates: dict[str, float], *, start: Start = Remote
) -> list[Row]:
    """One case: contenders that can run and pass the gate take turns; then the memory of each pass is measured."""
    device = torch.device(setup.device)
    free = free_memory(device)
    rows = [
        Row(case, name, problem=why_not(find(name), case, device, rates["float32"], free, setup.limit))
        for name in names
    ]
    workers: dict[str, Worker] = {}
    try:
        for row in rows:
            if row.problem is None:
                workers[row.contender] = start(Subject, row.contender, case, setup.device, threads=setup.threads)
        for row in rows:
            _ask(row, workers, _admit)
        for turn in range(setup.runs + 1):
            for row in rows:
                _ask(row, workers, _take_turn, keep=turn > 0)
        for row in rows:
            _ask(row, workers, _weigh)
            _rate(row, rates)
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def _ask(row: Row, workers: dict[str, Worker], what: Callable[..., None], **arguments: Any) -> None:
    """Does something with a contender that is still in; one that fails is out."""
    if row.problem is not None:
        return
    try:
        what(row, workers[row.contender], **arguments)
    except WorkerError as error:
        row.problem = str(error)
    if row.problem is not None:
        row.seconds, row.memory = {}, {}
        workers.pop(row.contender).close()


def _admit(row: Row, worker: Worker) -> None:
    row.first = worker.call("prepare")
    row.errors = worker.call("gate")
    if not passes(row.errors):
        row.failed, row.problem = True, "its result is wrong"


def _take_turn(row: Row, worker: Worker, *, keep: bool) -> None:
    for run in row.case.passes:
        seconds = worker.call("seconds", run)
        if keep:
            row.seconds.setdefault(run, []).append(seconds)


def _weigh(row: Row, worker: Worker) -> None:
    for run in row.case.passes:
        found = [worker.call("memory", run) for _ in range(MEMORY_RUNS)]
        row.memory[run] = [value for value in found if value is not None]


def _rate(row: Row, rates: dict[str, float]) -> None:
    """What the products of attention reach of the machine's rate; of blocks whose products are known."""
    if row.problem is not None or row.case.model is not None or row.contender not in CONTENDERS:
        return
    contender = CONTENDERS[row.contender]
    rate = rates["bf16" if contender.bf16 else "float32"]
    for run, products in (("forward", 1), ("both", 3)):
        seconds = row.median("seconds", run)  # type: ignore[arg-type]
        if seconds:
            row.fraction[run] = products * contender.flops(row.case) / seconds / rate
