"""Steps per second of training: over batches, patches, precisions and ways to compile, on random input.

A step is forward, L1, backward and a fused Adam, as a `Trainer` takes it; its data, clipping and averaging are left
out.
"""

from __future__ import annotations

import copy
import gc
import itertools
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sparse_attn.benchmark.memory import peak_bytes

CompileMode = bool | str
OUT_OF_MEMORY = "out of memory"
NO_TIME = "left out: the time was up"
# Two passes compile and tune; CUDA graphs are recorded in the third.
_WARM_UP = 3
# How many steps the host may be ahead of the device: enough to keep it busy, few enough to stop in time.
_AHEAD = 2
# What a case can fail with on a machine, as opposed to a mistake in this program.
_FAILURES = (RuntimeError, MemoryError, AssertionError, OSError, subprocess.SubprocessError)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One case.

    Args:
        batch: B.
        patch: side of the LR patch, pixels.
        compile: False, True or a mode of `torch.compile`.
        precision: `bf16` (autocast) or `float32`.
        steps: timed.
        seconds: the median of their times, or None where there is a problem.
        first_seconds: of the steps that warmed up, compiling included.
        peak_bytes: what a step adds to weights and optimizer at its peak; None where that cannot be measured.
        problem: why there is no time: out of memory, it does not compile, or no time was left.
    """

    batch: int
    patch: int
    compile: CompileMode
    precision: str
    steps: int = 0
    seconds: float | None = None
    first_seconds: float | None = None
    peak_bytes: int | None = None
    problem: str | None = None

    @property
    def steps_per_second(self) -> float | None:
        """Optimizer steps."""
        return None if self.seconds is None else 1.0 / self.seconds

    @property
    def samples_per_second(self) -> float | None:
        """Patches."""
        return None if self.seconds is None else self.batch / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the rates included."""
        rates = {"steps_per_second": self.steps_per_second, "samples_per_second": self.samples_per_second}
        return {**asdict(self), **rates}


def measure_throughput(
    model: nn.Module,
    *,
    batches: Sequence[int] = (8, 16, 32),
    patches: Sequence[int] = (48,),
    compile_modes: Sequence[CompileMode] = (False, True),
    precisions: Sequence[str] = ("bf16",),
    device: torch.device | str = "cpu",
    seconds_each: float = 4.0,
    seconds: float = 60.0,
    keep: Callable[[list[Throughput]], None] = lambda _: None,
) -> list[Throughput]:
    """Times steps of training, in the order of the arguments, the batches innermost.

    Args:
        model: has an attribute `scale`; it is copied, so its weights stay.
        batches: B. Larger ones than one that does not fit are left out.
        patches: sides of the LR patches, pixels.
        compile_modes: False, True or modes of `torch.compile`.
        precisions: `bf16`, `float32`.
        device: where.
        seconds_each: timed steps of a case, the first ones that warm up not counted.
        seconds: of everything: no case is begun after them. One that has begun ends, and compiling may take longer.
        keep: called with all records after each case, so that what interrupts loses one case only.
    """
    until = time.monotonic() + seconds
    place = torch.device(device)
    records: list[Throughput] = []
    for mode, precision, patch, batch in itertools.product(compile_modes, precisions, patches, batches):
        case = Throughput(batch=batch, patch=patch, compile=mode, precision=precision)
        full = next((r for r in records if r.problem == OUT_OF_MEMORY and _smaller(r, case)), None)
        if full is not None:
            records.append(_with_problem(case, f"left out: batch {full.batch} is {OUT_OF_MEMORY}"))
        elif time.monotonic() >= until:
            records.append(_with_problem(case, NO_TIME))
        else:
            records.append(_measure(model, case, place, min(seconds_each, until - time.monotonic())))
        keep(records)
    return records


def best(records: Iterable[Throughput], **wanted: Any) -> Throughput | None:
    """The case with the most samples a second, among those whose fields are as `wanted`; None if none was timed."""
    timed = [r for r in records if r.seconds is not None and all(getattr(r, k) == v for k, v in wanted.items())]
    return max(timed, key=lambda r: r.samples_per_second or 0.0, default=None)


def _smaller(one: Throughput, other: Throughput) -> bool:
    same = all(getattr(one, name) == getattr(other, name) for name in ("patch", "compile", "precision"))
    return same and one.batch <= other.batch


def _with_problem(case: Throughput, problem: str) -> Throughput:
    return Throughput(**{**asdict(case), "problem": problem})


def _measure(model: nn.Module, case: Throughput, device: torch.device, seconds: float) -> Throughput:
    problem = ""
    try:
        return _time(_Step(model, case, device), case, device, seconds)
    except torch.OutOfMemoryError:
        problem = OUT_OF_MEMORY
    except _FAILURES as error:
        text = str(error).strip()
        out = isinstance(error, MemoryError) or "can't allocate memory" in text
        problem = OUT_OF_MEMORY if out else f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]
    finally:
        # What a failed step has left, and compiled code of this case, would count against the next.
        gc.collect()
        if case.compile is not False:
            torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return _with_problem(case, problem)


class _Step:
    """A step of training, to be called again and again."""

    def __init__(self, model: nn.Module, case: Throughput, device: torch.device) -> None:
        self.network = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).train()
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-5, fused=True)
        self.bf16, self.device = case.precision == "bf16", device
        scale = int(getattr(model, "scale", 1))
        shape = (case.batch, 3, case.patch, case.patch)
        self.lr, self.hr = (
            torch.rand(*shape[:2], *(side * s for side in shape[2:])).to(device, memory_format=torch.channels_last)
            for s in (1, scale)
        )
        if case.compile is not False:
            self.network.compile(mode=None if case.compile is True else case.compile)

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.network(self.lr)
        F.l1_loss(out.float(), self.hr).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _time(step: _Step, case: Throughput, device: torch.device, seconds: float) -> Throughput:
    clock = _CudaClock(device) if device.type == "cuda" else _Clock()
    start = time.monotonic()
    for _ in range(_WARM_UP):
        step()
    clock.mark()
    clock.wait()
    first, start = time.monotonic() - start, time.monotonic()
    taken = 0
    while taken == 0 or time.monotonic() - start < seconds:
        step()
        clock.mark()
        clock.wait(behind=_AHEAD)
        taken += 1
    clock.wait()
    return Throughput(
        **{
            **asdict(case),
            "steps": taken,
            "seconds": median(clock.seconds()),
            "first_seconds": first,
            "peak_bytes": peak_bytes(step, device),
        }
    )


class _Clock:
    """Marks between steps that are done when they return."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        self.marks.append(time.perf_counter())

    def wait(self, *, behind: int = 0) -> None:
        """Nothing to wait for."""

    def seconds(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.marks)]


class _CudaClock(_Clock):
    """The same with events in the device's queue."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.stream = torch.cuda.current_stream(device)
        self.events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        self.events.append(event)

    def wait(self, *, behind: int = 0) -> None:
        """Until the mark that is `behind` the newest has been passed."""
        if len(self.events) > behind:
            self.events[-1 - behind].synchronize()

    def seconds(self) -> list[float]:
        return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(self.events)]
