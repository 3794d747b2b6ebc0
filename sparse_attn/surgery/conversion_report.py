"""What converting dense attention into sparse attention cost, as a table and as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparse_attn.attention.health import Health
from sparse_attn.surgery.distill import Distillation

_SHORT = {"bucket_size": "k", "rounds": "R"}
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Goal:
    """What a sparse attention is to keep of the dense one; one of both at least is given.

    Args:
        mass: the share of its weight.
        error: how far its output may be off.
    """

    mass: float | None
    error: float | None

    def reached_by(self, health: Health) -> bool:
        """Whether it is kept, rounding aside."""
        heavy = self.mass is None or health.mass_kept >= self.mass - _ROUNDING
        return heavy and (self.error is None or health.output_error <= self.error + _ROUNDING)

    def missed_by(self, health: Health) -> float:
        """Of two that do not keep it, the smaller is the nearer."""
        return -health.mass_kept if self.error is None else health.output_error

    def __str__(self) -> str:
        parts = [] if self.mass is None else [f"keeps {percent(self.mass)} of the weight"]
        parts += [] if self.error is None else [f"is off by {percent(self.error)} or less"]
        return f"{' and '.join(parts)}; * {'keeps the most' if self.error is None else 'is off the least'}"


@dataclass(frozen=True)
class Trial:
    """One setting that was measured.

    Args:
        settings: `bucket_size` and `rounds`, or those of them that the attention has.
        health: compared with the attention that is replaced, mean over the calibration images.
    """

    settings: Mapping[str, int]
    health: Health


@dataclass(frozen=True)
class LayerConversion:
    """One attention that was converted.

    Args:
        name: dotted.
        was: the attention that was there, in words.
        tokens: N of the maps it was measured on, mean: the keys that dense attention compares with.
        trials: in the order they were measured.
        chosen: the setting it has now.
        enough: whether the chosen setting keeps what was asked for.
        distillation: what training it did, if it was trained.
    """

    name: str
    was: str
    tokens: float
    trials: tuple[Trial, ...]
    chosen: Trial
    enough: bool
    distillation: Distillation | None = None

    def table(self, top: int) -> str:
        """A row for each trial, the chosen one marked."""
        axes = list(self.chosen.settings)
        head = [_SHORT[axis] for axis in axes] + ["keys met", "weight kept", f"top {top}", "output off by"]
        rows = [
            [
                *(str(trial.settings[axis]) for axis in axes),
                f"{trial.health.keys_met:.0f}",
                percent(trial.health.mass_kept),
                percent(trial.health.recall),
                percent(trial.health.output_error),
            ]
            for trial in self.trials
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        marks = ["*" if trial is self.chosen else " " for trial in self.trials]
        return "\n".join(
            "  ".join([mark, *(cell.rjust(width) for cell, width in zip(row, widths, strict=True))])
            for mark, row in zip([" ", *marks], [head, *rows], strict=True)
        )


@dataclass(frozen=True)
class ConversionReport:
    """What `convert_attention` did; `str()` of it is a table for each attention.

    Args:
        to: the registered name of the new attention.
        layers: in module order.
        goal: what a setting was to keep.
        top: how many of the heaviest keys the recall is about.
        output_error: ||after - before|| / ||before|| of the model's output on the calibration images; None where the
            model does not return a tensor.
    """

    to: str
    layers: tuple[LayerConversion, ...]
    goal: Goal
    top: int
    output_error: float | None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return asdict(self)

    def __str__(self) -> str:
        parts = []
        for layer in self.layers:
            parts.append(f"{layer.name}: {layer.was} -> {self.to}, {layer.tokens:.0f} tokens")
            parts.append(layer.table(self.top))
            if not layer.enough and len(layer.trials) > 1:
                parts.append(f"   no sparser setting {self.goal}")
            if layer.chosen.health.keys_met >= layer.tokens:
                parts.append("   this compares as many keys as dense attention does, or more")
            if layer.distillation is not None:
                parts.append(f"   {_told(layer.distillation)}")
        if self.output_error is not None:
            parts.append(f"the model's output differs by {percent(self.output_error)}")
        return "\n".join(parts)


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.1f} %" if abs(share) >= 0.01 or not share else f"{100 * share:.2g} %"


def _told(done: Distillation) -> str:
    result = f"distilled, {done.steps} steps: output off by {percent(done.before)} before, {percent(done.after)} after"
    return result if done.kept else f"{result}; the weights were left as they were"
