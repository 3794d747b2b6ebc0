"""An ablation is data: what is trained, how it is tested, and what the paper reports, read from YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError, DataError, unknown_name
from sparse_attn.reproduction.schema import build, build_all, read_yaml
from sparse_attn.weights.zoo import zoo_folders

ABLATIONS, SCALES = "ablations", "scales"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How a trained network is tested.

    Args:
        name: for tables.
        settings: what `configure_attention` changes before the test; nothing is trained again.
        x: its place on a figure's axis.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    x: float | None = None


AS_TRAINED = Condition(name="as trained")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network that is trained, once a seed.

    Args:
        name: for tables.
        model_config: what distinguishes it from the ablation's model.
        tests: the names of the conditions it is tested under; empty for all.
        series: the line of a figure it belongs to; by default its own.
        x: its place on a figure's axis, where the condition has none.
        paper: the paper's PSNR by the name of the condition, dB; None where no source for it was seen.
    """

    name: str
    model_config: Mapping[str, Any]
    tests: tuple[str, ...] = ()
    series: str | None = None
    x: float | None = None
    paper: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A table or figure of the paper.

    Args:
        name: its file's stem.
        title: what it is about.
        source: where the paper has it.
        paper_source: where the paper's figures were seen.
        model: a registered model.
        benchmark: folder with `HR/` and `LR/`, below the data folder.
        variants: what is trained.
        tests: how each is tested.
        model_config: of all variants; a recipe's own `model_config` goes over it, a variant's over both.
        axis: of a figure, what x is; None draws a chart of names.
        notes: what a reader of the figures should know.
    """

    name: str
    title: str
    source: str
    paper_source: str
    model: str
    benchmark: str
    variants: tuple[Variant, ...]
    tests: tuple[Condition, ...] = (AS_TRAINED,)
    model_config: Mapping[str, Any] = field(default_factory=dict)
    axis: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        models.get(self.model)
        tests = [test.name for test in self.tests]
        for what, names in (("variants", [v.name for v in self.variants]), ("tests", tests)):
            if not names or len(set(names)) != len(names):
                raise ConfigError(f"{self.name}: bad {what}", expected="at least one, of distinct names", got=names)
        for variant in self.variants:
            for name in (*variant.tests, *variant.paper):
                if name not in tests:
                    raise unknown_name(f"test of {self.name}, variant {variant.name!r}", name, tests)
            models.get(self.model).full_config(**self.config(variant))

    def config(self, variant: Variant, recipe_config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A variant's `model_config`."""
        return {**self.model_config, **(recipe_config or {}), **variant.model_config}

    def conditions(self, variant: Variant) -> list[Condition]:
        """How a variant is tested."""
        return [test for test in self.tests if not variant.tests or test.name in variant.tests]


def ablation_files() -> dict[str, Path]:
    """Every table and figure by its name: the first file of `zoo_folders()` that is called so.

    Raises:
        DataError: there are none.
    """
    folders = [zoo / ABLATIONS for zoo in zoo_folders()]
    found = _first(path for folder in folders for path in sorted(folder.glob("*.yaml")))
    if not found:
        raise DataError(
            "no ablations",
            expected=f"YAML files in {' or '.join(map(str, folders))}",
            remedy="run in a checkout, or set SPARSE_ATTN_ZOO to its zoo/",
        )
    return found


def list_ablations() -> list[str]:
    """The sorted names of the tables and figures."""
    return sorted(ablation_files())


def find_ablation(name: str) -> Path:
    """The file of a table or figure.

    Raises:
        UnknownNameError: no such one; the message names its close match.
    """
    files = ablation_files()
    if name not in files:
        raise unknown_name("table or figure", name, files)
    return files[name]


def find_scale(name: str) -> Path:
    """The recipe of a scale of effort: of `tiny`, `small`, `paper`, or a recipe file.

    Raises:
        UnknownNameError: neither.
    """
    files = _first(path for zoo in zoo_folders() for path in sorted((zoo / ABLATIONS / SCALES).glob("*.yaml")))
    if name in files:
        return files[name]
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    raise unknown_name("scale of effort, and no recipe file", name, files)


def load_ablation(path: Path) -> Ablation:
    """Reads a table or figure; its name is the file's stem.

    Raises:
        ConfigError: it cannot be read, or a field has a bad value.
        UnknownNameError: an unknown field, model, argument or test.
    """
    values = {**read_yaml(path), "name": path.stem}
    for key, cls in (("variants", Variant), ("tests", Condition)):
        if key in values:
            values[key] = build_all(cls, values[key], f"{path.name}, entry of {key}")
    return build(Ablation, values, path.name)


def _first(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(path.stem, path)
    return found
