"""From YAML and `field=value` overrides to a recipe; an unknown field is an error that names its close match."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparse_attn.errors import ConfigError, unknown_name
from sparse_attn.training.config import Recipe, Stage

_FOLDERS = ("train", "val", "init")
_SCALARS: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


def load_recipe(path: Path, *, settings: Iterable[str] = (), **overrides: Any) -> Recipe:
    """Reads a recipe. Relative folders are relative to the recipe.

    Args:
        path: of a YAML file.
        settings: `field=value` lines that replace its fields, values as in YAML; a stage's field is
            `stages.<name>.<field>`, a mapping's entry `model_config.<key>`. A folder given so is taken as it is.
        overrides: fields to replace, where not None.

    Raises:
        ConfigError: no such file, not YAML, or a field with a bad value.
        UnknownNameError: an unknown field; the message names its close match.
    """
    values = _read_yaml(path)
    if not isinstance(values.get("stages"), list):
        raise ConfigError(f"recipe {path} has no stages", expected="a list", got=type(values.get("stages")).__name__)
    for name in _FOLDERS:
        if isinstance(values.get(name), str):
            values[name] = str((path.parent / values[name]).resolve())
    for setting in settings:
        _apply(values, setting)
    values.update({name: value for name, value in overrides.items() if value is not None})
    values["stages"] = tuple(_build(Stage, s, f"stage {i} of the recipe") for i, s in enumerate(values["stages"], 1))
    if "betas" in values:
        values["betas"] = _tuple(values["betas"], "float", "the recipe: betas")
    if "trackers" in values:
        values["trackers"] = _tuple(values["trackers"], "str", "the recipe: trackers")
    recipe: Recipe = _build(Recipe, values, "the recipe")
    return recipe


def _read_yaml(path: Path) -> dict[str, Any]:
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
    return dict(values)


def _apply(values: dict[str, Any], setting: str) -> None:
    """Puts `a.b=value` into `values`; what the fields may be is checked when the recipe is built."""
    import yaml

    dotted, equals, text = setting.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError("bad setting", expected="field=value", got=repr(setting))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"bad value of setting {dotted!r}", expected="YAML", got=repr(text)) from error
    target: Any = values
    for depth, key in enumerate(keys[:-1]):
        if isinstance(target, list):
            named = {str(stage.get("name")): stage for stage in target if isinstance(stage, dict)}
            if key not in named:
                raise unknown_name("stage", key, named)
            target = named[key]
        else:
            target = target.setdefault(key, {})
        if not isinstance(target, dict | list):
            where = ".".join(keys[: depth + 1])
            raise ConfigError(f"bad setting {setting!r}", got=f"{where} has no fields", remedy="set it as a whole")
    if isinstance(target, list):
        raise ConfigError(f"bad setting {setting!r}", expected="stages.<name>.<field>=value")
    target[keys[-1]] = value


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
    choices = annotation.split(" | ")
    if value is None and "None" in choices:
        return value
    scalars = [_SCALARS[choice] for choice in choices if choice in _SCALARS]
    if not scalars:
        return value
    if len(scalars) > 1:
        if type(value) in scalars:
            return value
        raise ConfigError(f"{where} has the wrong type", expected=annotation, got=repr(value))
    scalar = scalars[0]
    # YAML reads 1e-4 as a string: a float field takes any number that Python reads.
    allowed: tuple[type, ...] = (int, float, str) if scalar is float else (scalar,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and scalar is not bool):
        raise ConfigError(f"{where} has the wrong type", expected=annotation, got=repr(value))
    try:
        return scalar(value)
    except ValueError:
        raise ConfigError(f"{where} has the wrong type", expected=annotation, got=repr(value)) from None


def _tuple(value: object, annotation: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        kind = "numbers" if annotation == "float" else "names"
        raise ConfigError(f"{where} has the wrong type", expected=f"a list of {kind}", got=repr(value))
    return tuple(_cast(item, annotation, where) for item in value)
