"""The settings a sparse attention may have in place of a dense one, measured and chosen from."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sparse_attn.attention import Probe, attentions, probe
from sparse_attn.attention.checking import describe
from sparse_attn.attention.health import Health, health
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.errors import ConfigError, unknown_name
from sparse_attn.surgery.conversion_report import Goal, LayerConversion, Trial
from sparse_attn.surgery.distill import Distillation, imitate
from sparse_attn.surgery.record import arguments_of
from sparse_attn.surgery.swap import Exchange

DEFAULTS: Mapping[str, tuple[int, ...]] = {"bucket_size": (64, 144, 256), "rounds": (1, 2, 4, 8)}


def make_grid(to: str, wanted: Mapping[str, int | Sequence[int] | None]) -> list[dict[str, int]]:
    """Every combination of the wanted bucket sizes and rounds, or of the defaults, that an attention has.

    Raises:
        ConfigError: the attention is dense; a bad value, or none.
        UnknownNameError: no such attention, or it has no such setting.
    """
    cls = attentions.get(to)
    if issubclass(cls, NonLocalAttention):
        raise ConfigError(f"{to} is dense", expected="a sparse attention to convert to", remedy="use to='nlsa'")
    axes: dict[str, list[int]] = {}
    for axis, values in wanted.items():
        if axis in cls.settings:
            several = DEFAULTS[axis] if values is None else values if isinstance(values, Sequence) else [values]
            axes[axis] = [cls.settings[axis](value) for value in several]
            if not axes[axis]:
                raise ConfigError(f"no {axis} to measure", expected="one or several", got=values)
        elif values is not None:
            raise unknown_name(f"setting of attention {to!r}", axis, cls.settings)
    return [dict(zip(axes, cell, strict=True)) for cell in itertools.product(*axes.values())]


class Candidate:
    """One dense attention and the sparse one that may take its place.

    Args:
        old: the dense one, which is not changed.
        names: the dotted names it goes by.
        to: the registered name of the sparse one.
        settings: of the sparse one, over those kept.
        seed: of its rotations, unless `settings` or `old` says.

    Raises:
        ConfigError: windows or weights that the sparse one has no place for.
    """

    def __init__(
        self, old: NonLocalAttention, names: Sequence[str], to: str, settings: Mapping[str, Any], *, seed: int
    ) -> None:
        if old.window is not None and "window" not in arguments_of(to):
            raise ConfigError(
                f"{names[0]} attends within windows, which {to} does not have",
                got=f"window={old.window}",
                remedy="convert it to nlsa, or leave it out with where=",
            )
        self.old, self.name = old, names[0]
        self.exchange = Exchange(old, names, to, settings, seed=seed)
        if self.exchange.report.lost:
            raise ConfigError(
                f"{to} cannot take over the weights of {self.name}",
                got=", ".join(self.exchange.report.lost),
                remedy="leave out the settings that change their shapes",
            )
        self.new = self.exchange.new
        self.inputs: list[Tensor] = []
        self.measured: list[list[Health]] = []

    def measure(
        self, found: Mapping[str, Probe], grid: Sequence[Mapping[str, int]], *, queries: int, top: int, seed: int
    ) -> None:
        """Every setting on what the dense attention was given for one calibration image."""
        if self.name not in found:
            raise ConfigError(f"{self.name} was not called on the calibration images", got=", ".join(found))
        dense = found[self.name]
        if not all(bool(maps.isfinite().all()) for maps in (dense.queries, dense.keys, dense.values)):
            raise ConfigError(
                f"{self.name} has numbers that are not finite on the calibration images",
                expected="finite queries, keys and values",
                remedy="check the images and the weights, or convert in float32",
            )
        x = dense.inputs.to(self.old.embed.weight)
        against = None if self.old.window is None else dense
        row = []
        for cell in grid:
            self.new.configure(**cell)
            sparse = probe(self.new, x)[""]
            row.append(health(sparse, against=against, queries=queries, top=top, seed=seed))
        self.inputs.append(x)
        self.measured.append(row)

    def decide(self, grid: Sequence[Mapping[str, int]], goal: Goal) -> LayerConversion:
        """The cheapest setting that reaches the goal, or the one that is nearest to it; it is set.

        Settings that compare more keys than dense attention does are measured, and chosen only if there is no other.
        One that compares as many has to reach the goal: a bucket that holds everything does.
        """
        trials = [
            Trial(dict(c), _mean(per_image))
            for c, per_image in zip(grid, zip(*self.measured, strict=True), strict=True)
        ]
        tokens = sum(x.shape[2] * x.shape[3] for x in self.inputs) / len(self.inputs)
        cheap = [trial for trial in trials if trial.health.keys_met <= tokens] or trials
        enough = [trial for trial in cheap if goal.reached_by(trial.health)]
        if enough:
            chosen = min(enough, key=lambda trial: (trial.health.keys_met, trial.health.output_error))
        else:
            cheaper = [trial for trial in cheap if trial.health.keys_met < tokens] or cheap
            chosen = min(cheaper, key=lambda trial: goal.missed_by(trial.health))
        self.new.configure(**chosen.settings)
        return LayerConversion(self.name, describe(self.old), tokens, tuple(trials), chosen, enough=bool(enough))

    def distilled(self, *, steps: int, lr: float, seed: int) -> Distillation:
        """Trains the sparse attention, as it is set now, to give what the dense one gives."""
        wide = torch.promote_types(self.new.embed.weight.dtype, torch.float32)
        student, teacher = copy.deepcopy(self.new).to(wide), copy.deepcopy(self.old).to(wide)
        done = imitate(student, teacher.eval(), [x.to(wide) for x in self.inputs], steps=steps, lr=lr, seed=seed)
        if done.kept:
            self.new.load_state_dict(student.state_dict())
        return done


def _mean(measured: Sequence[Health]) -> Health:
    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in measured]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return Health(**{field.name: mean(field.name) for field in fields(Health)})  # type: ignore[arg-type]
