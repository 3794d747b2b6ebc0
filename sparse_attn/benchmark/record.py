"""The record of a run: how it was measured, every number, and what follows from them; as JSON and back."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from sparse_attn.benchmark.cases import Case, Pass
from sparse_attn.benchmark.scaling import median
from sparse_attn.errors import DataError

# What changes how memory is handed out, and with it the time that page faults take.
_ALLOCATOR = (
    "MALLOC_",
    "THP_MEM_ALLOC_ENABLE",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How everything in one run is measured.

    Args:
        suite: its name.
        device: `cpu`, `cuda` ...
        threads: of each worker.
        runs: timed turns of each contender and pass, after one that warms up.
        limit: seconds; a contender whose forward and backward pass would take longer is left out.
    """

    suite: str
    device: str
    threads: int
    runs: int = 7
    limit: float = 30.0

    @property
    def kind(self) -> str:
        """`cuda` of `cuda:1`."""
        return self.device.partition(":")[0]


@dataclass
class Row:
    """One contender in one case.

    Args:
        case: where.
        contender: who.
        problem: why it was not timed, or None.
        failed: whether the problem is a result that is wrong, not one that cannot be had.
        errors: of the gate: output and gradient, each as a fraction of the largest value, beside the tolerance.
        first: seconds of each pass when it first ran: compiling and tuning included, in no median.
        seconds: of each pass, one number a turn.
        memory: bytes that each pass added at its peak, one number a repetition; empty where it cannot be measured.
        fraction: of the machine's matmul rate that the products of each pass reach; embeddings, hash and sort are in
            the time but not counted as work.
    """

    case: Case
    contender: str
    problem: str | None = None
    failed: bool = False
    errors: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)
    fraction: dict[str, float] = field(default_factory=dict)

    def median(self, what: Literal["seconds", "memory"], run: Pass) -> float | None:
        """Of the turns of one pass; None if there were none."""
        return median((self.seconds if what == "seconds" else self.memory).get(run, []))


@dataclass(frozen=True)
class Verdict:
    """A bar and what was measured.

    Args:
        where: the case.
        what: who against whom.
        wanted: the bar.
        value: the ratio, or the absolute value; None if it was not measured.
        met: whether it reaches the bar; None if it was not measured, or on a toy.
        at_least: whether more is better.
    """

    where: str
    what: str
    wanted: float
    value: float | None
    met: bool | None
    at_least: bool = True


@dataclass
class Record:
    """All of one run."""

    setup: Setup
    machine: dict[str, Any]
    rates: dict[str, float]
    rows: list[Row] = field(default_factory=list)
    bars: list[Verdict] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str | None = None

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Of what `to_json` wrote.

        Raises:
            DataError: it was not.
        """
        try:
            values: Mapping[str, Any] = json.loads(text)
            rows = [Row(**{**row, "case": Case(**row["case"])}) for row in values["rows"]]
            bars = [Verdict(**bar) for bar in values["bars"]]
            return cls(**{**values, "setup": Setup(**values["setup"]), "rows": rows, "bars": bars})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError("not a record of a benchmark", got=error, remedy="write one: sparse-attn bench") from error


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    kind = device.partition(":")[0]
    found = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_ALLOCATOR)}
    return {
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name(device) if kind == "cuda" else None,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "allocator": found or "default",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = {word for line in lines if line.startswith("flags") for word in line.split()}
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in features]
    return " ".join([names[0] if names else platform.processor() or "unknown", *(["with", *wide] if wide else [])])
