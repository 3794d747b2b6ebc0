"""The recipe: dataclasses read from YAML, every field checked when it is read."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparse_attn.errors import ConfigError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of training with its own schedule.

    Args:
        name: for the log and the file of its weights: letters, digits, `_` and `-`, but not `last`.
        steps: optimizer steps.
        lr: peak learning rate; it rises linearly over `warmup` steps and ends at zero (`cosine`), or is halved every
            `halve_every` steps (`halving`).
        batch: patches a step.
        patch: side of the LR patch, pixels.
        attention: False trains the network with its attention slots empty; the next stage then starts with
            zero-initialised attention, so it goes on from exactly this function.
        schedule: `cosine` or `halving`.
        warmup: steps.
        halve_every: steps, for `halving`.
    """

    name: str
    steps: int
    lr: float
    batch: int = 16
    patch: int = 48
    attention: bool = True
    schedule: str = "cosine"
    warmup: int = 0
    halve_every: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name) or self.name == "last":
            raise ConfigError(
                "bad stage name", expected="letters, digits, _ and -, and not `last`", got=repr(self.name)
            )
        if self.warmup < 0:
            raise ConfigError(f"stage {self.name!r}: bad warmup", expected="at least 0", got=self.warmup)
        for name in ("steps", "batch", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stage {self.name!r}: bad {name}", expected="at least 1", got=getattr(self, name))
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"stage {self.name!r}: bad lr", expected="a positive number", got=self.lr)
        if self.schedule not in ("cosine", "halving"):
            raise ConfigError(
                f"stage {self.name!r}: bad schedule", expected="cosine or halving", got=repr(self.schedule)
            )
        if self.schedule == "halving" and self.halve_every < 1:
            raise ConfigError(
                f"stage {self.name!r}: halving needs halve_every", expected="at least 1", got=self.halve_every
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what a training run does.

    Args:
        model: a registered model.
        stages: in order.
        train: folder of training images or `.tar` shards.
        val: folder of HR images whose PSNR is logged; the last averaged weights are what a run gives.
        init: model folder or weights file to start from, or None; tensors whose shape differs start fresh.
        model_config: overrides of the model's configuration.
        seed: of weights, patches and rotations.
        ema: decay of the averaged weights that are validated and shipped; it warms up as (1 + t) / (10 + t).
        betas: of Adam.
        eps: of Adam.
        precision: `bf16` (autocast) or `float32`.
        val_every: steps between validations.
        val_images: how many images of `val` these use; the end of a stage uses all.
        save_minutes: minutes between checkpoints.
    """

    model: str
    stages: tuple[Stage, ...]
    train: str
    val: str
    init: str | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    ema: float = 0.999
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    precision: str = "bf16"
    val_every: int = 500
    val_images: int = 6
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a recipe needs stages", expected="at least one, of distinct names", got=names)
        if not isinstance(self.model_config, Mapping):
            raise ConfigError("bad model_config", expected="key: value lines", got=repr(self.model_config))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("bad betas", expected="two numbers, 0 <= beta < 1", got=list(self.betas))
        if not (self.eps > 0 and self.save_minutes > 0):
            raise ConfigError("bad eps or save_minutes", expected="positive numbers", got=(self.eps, self.save_minutes))
        if self.precision not in ("bf16", "float32"):
            raise ConfigError("bad precision", expected="bf16 or float32", got=repr(self.precision))
        if not 0 <= self.ema < 1:
            raise ConfigError("bad ema", expected="0 <= ema < 1", got=self.ema)
        if self.val_every < 1 or self.val_images < 1:
            raise ConfigError(
                "bad val_every or val_images", expected="at least 1", got=(self.val_every, self.val_images)
            )


def _build(cls: type[Any], values: object, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is not a mapping", expected="key: value lines", got=type(values).__name__)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise unknown_name(f"field of {where}", str(name), fields)
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", remedy="add the missing fields")
    typed = {name: _cast(value, str(fields[name].type), f"{where}: {name}") for name, value in values.items()}
    return cls(**typed)


def _cast(value: Any, annotation: str, where: str) -> Any:
    scalar = {"int": int, "float": float, "str": str, "bool": bool}.get(annotation.removesuffix(" | None"))
    if scalar is None or (value is None and annotation.endswith("| None")):
        return value
    # YAML reads 1e-4 as a string: a float field takes any number that Python reads.
    allowed: tuple[type, ...] = (int, float, str) if scalar is float else (scalar,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and scalar is not bool):
        raise ConfigError(f"{where} has the wrong type", expected=annotation, got=repr(value))
    try:
        return scalar(value)
    except ValueError:
        raise ConfigError(f"{where} has the wrong type", expected=annotation, got=repr(value)) from None


def _numbers(value: object, where: str) -> tuple[float, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} has the wrong type", expected="a list of numbers", got=repr(value))
    return tuple(_cast(number, "float", where) for number in value)


def load_recipe(path: Path, **overrides: Any) -> Recipe:
    """Reads a recipe; `overrides` that are not None replace fields. Relative folders are relative to the recipe.

    Raises:
        ConfigError: no such file, not YAML, or a field with a bad value.
        UnknownNameError: an unknown field; the message names its close match.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}", got=error.strerror, remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {path} is not text", expected="UTF-8", got=str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path} is not YAML", got=str(error).replace("\n", " ")) from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"recipe {path} is not a mapping", expected="key: value lines", got=type(values).__name__)
    values = {**values, **{k: v for k, v in overrides.items() if v is not None}}
    stages = values.get("stages")
    if not isinstance(stages, list):
        raise ConfigError(f"recipe {path} has no stages", expected="a list", got=type(stages).__name__)
    values["stages"] = tuple(_build(Stage, s, f"stage {i} of the recipe") for i, s in enumerate(stages, 1))
    if "betas" in values:
        values["betas"] = _numbers(values["betas"], "the recipe: betas")
    for name in ("train", "val", "init"):
        folder = values.get(name)
        if isinstance(folder, str) and name not in {k for k, v in overrides.items() if v is not None}:
            values[name] = str((path.parent / folder).resolve())
    recipe: Recipe = _build(Recipe, values, "the recipe")
    return recipe
