"""Small cases, made-up rows, and workers that live in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.record import Record, Row, Setup

SMALL = Case(channels=8, side=11, batch=2, rounds=2, bucket_size=13)
NETWORK = Case(channels=8, side=11, rounds=2, bucket_size=13, model="nlsn_x4", tiny=True)
TRAINING = Case(channels=8, side=11, rounds=2, bucket_size=13, model="nlsn_x4", tiny=True, training=True)
RATES = {"float32": 1e11, "bf16": 2e11, "copy": 1e10}


def setup(**changes: Any) -> Setup:
    return Setup(**{"suite": "size", "device": "cpu", "threads": 1, "runs": 7, **changes})


def row(case: Case, contender: str, seconds: float, memory: float = 2.0**20) -> Row:
    """A contender that took exactly this long, and twice as long with the backward pass."""
    factors = {"forward": 1, "both": 2}
    return Row(
        case,
        contender,
        errors={"output": 1e-6, "gradient": 2e-6, "tolerance": 5e-5, "side": case.side},
        first=dict.fromkeys(factors, seconds),
        seconds={run: [factor * seconds] * 7 for run, factor in factors.items()},
        memory={run: [factor * memory] * 3 for run, factor in factors.items()},
        fraction={"forward": 0.25},
    )


def record(rows: list[Row], **changes: Any) -> Record:
    machine = {"cpu": "a processor", "gpu": None, "torch": "9.9", "allocator": "default"}
    return Record(setup(**changes), machine, RATES, rows=rows)


class Here:
    """A worker without a process."""

    def __init__(self, make: Callable[..., Any], *arguments: Any, threads: int) -> None:
        self.subject = make(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.subject, method)(*arguments)

    def close(self) -> None:
        pass
