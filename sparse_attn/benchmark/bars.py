"""The bars: how much faster and smaller than what, in which case; as data, and their judgement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sparse_attn.benchmark.cases import DENSE, Case, Entry, Pass, merged
from sparse_attn.benchmark.record import Row, Verdict

_NAMES: Mapping[str, str] = {"forward": "forward", "both": "forward+backward", "step": "step"}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One claim.

    Args:
        case: where.
        contender: who.
        against: the best of these is the baseline; nobody makes the bar an absolute one, in seconds.
        run: which pass.
        what: seconds or peak memory.
        wanted: the baseline over the contender is at least this; of an absolute bar, the contender is at most this.
    """

    case: Case
    contender: str
    against: tuple[str, ...]
    run: Pass
    wanted: float
    what: Literal["seconds", "memory"] = "seconds"

    @property
    def label(self) -> str:
        """What is compared with what."""
        what = _NAMES[self.run] + (" peak memory" if self.what == "memory" else "")
        if not self.against:
            return f"{self.contender}, {what}"
        others = self.against[0] if len(self.against) == 1 else f"the best of {', '.join(self.against)}"
        return f"{self.contender} against {others}, {what}"

    def judge(self, rows: Iterable[Row]) -> Verdict:
        """What was measured, beside the bar; nothing if someone it needs was not measured."""
        here = {row.contender: row.median(self.what, self.run) for row in rows if row.case == self.case}
        own = here.get(self.contender)
        others = [value for name in self.against if (value := here.get(name)) is not None]
        value = None
        if own and not self.against:
            value = own
        elif own and others:
            value = min(others) / own
        met = None
        if value is not None and not self.case.tiny:
            met = value >= self.wanted if self.against else value <= self.wanted
        return Verdict(self.case.label, self.label, self.wanted, value, met, bool(self.against))


# Both are judged: the one that a C++ compiler on the machine makes possible, and the one that needs none.
_CPU = ("native", "blocked")


def _against_authors() -> list[Bar]:
    """Forward, forward and backward, and peak memory of either pass."""
    table = {
        Case(channels=64, side=100): (3.5, 3.3, 10.0),
        Case(channels=256, side=48, batch=4): (2.7, 2.8, 6.0),
        Case(channels=256, side=100): (2.8, 2.4, 7.0),
        Case(channels=256, side=200): (5.0, 3.0, 8.0),
    }
    bars = []
    for case, (forward, both, memory) in table.items():
        for name in _CPU:
            start = Bar(case=case, contender=name, against=("authors",), run="forward", wanted=forward)
            bars += [
                start,
                replace(start, run="both", wanted=both),
                replace(start, what="memory", wanted=memory),
                replace(start, what="memory", run="both", wanted=memory),
                Bar(case=case, contender=f"{name} bf16", against=(name,), run="forward", wanted=1.3),
            ]
    return bars


def _against_dense() -> list[Bar]:
    def bar(name: str, side: int, rounds: int, wanted: float) -> Bar:
        # The case of both kinds of bars is timed in full; dense backward passes take minutes.
        case = Case(channels=64, side=side, rounds=rounds, forward_only=(side, rounds) != (100, 4))
        return Bar(case=case, contender=name, against=DENSE, run="forward", wanted=wanted)

    table = ((64, 4, 1.0), (100, 4, 3.5), (200, 4, 15.0), (48, 1, 1.0), (64, 1, 1.0), (100, 1, 1.0))
    return [bar(name, *row) for row in table for name in _CPU]


_NETWORK = Case(channels=256, side=64, model="nlsn_x4")
_TRAINING = Case(channels=256, side=48, batch=16, model="nlsn_x4", training=True)
_GPU_BLOCK = Case(channels=256, side=48, batch=16)

CPU_BARS = [
    *_against_authors(),
    *_against_dense(),
    Bar(case=_NETWORK, contender="network auto bf16", against=("network eager",), run="forward", wanted=1.9),
]
CUDA_BARS = [
    Bar(case=_GPU_BLOCK, contender="triton bf16", against=("eager bf16",), run="forward", wanted=4.0),
    Bar(case=_GPU_BLOCK, contender="triton bf16", against=("eager bf16",), run="both", wanted=3.0),
    Bar(case=_GPU_BLOCK, contender="triton bf16", against=(), run="forward", wanted=0.4e-3),
    Bar(case=_TRAINING, contender="training auto bf16", against=("training eager bf16",), run="step", wanted=2.0),
]


def bars_of(device: str) -> list[Bar]:
    """The bars of this kind of device."""
    return CUDA_BARS if device == "cuda" else CPU_BARS


def toys() -> list[Bar]:
    """Every kind of bar of every device, on toy cases: runs all there is to run, and judges nothing."""
    bars = [replace(bar, case=bar.case.toy()) for bar in (*CPU_BARS, *CUDA_BARS)]
    return list({(bar.case, bar.label): bar for bar in bars}.values())


def entries_of(bars: Iterable[Bar]) -> list[Entry]:
    """The cases and contenders that a judgement needs."""
    return merged([(bar.case, (*bar.against, bar.contender)) for bar in bars])
