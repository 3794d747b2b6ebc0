"""YAML to dataclasses; an unknown field is an error that names its close match."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sparse_attn.errors import ConfigError, unknown_name

T = TypeVar("T")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A file that holds `key: value` lines.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}", got=error.strerror, remedy="check the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not YAML", got=str(error).replace("\n", " ")) from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} is not a mapping", expected="key: value lines", got=type(values).__name__)
    return values


def build(cls: type[T], values: object, where: str) -> T:
    """`cls(**values)`, with lists as tuples, once every field is known to be one and to have a value of its kind.

    Args:
        cls: a dataclass.
        values: of its fields.
        where: what messages call it.

    Raises:
        ConfigError: not a mapping, a field that is missing, or a value of another kind.
        UnknownNameError: an unknown field.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is not a mapping", expected="key: value lines", got=repr(values))
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise unknown_name(f"field of {where}", str(name), fields)
    missing = [
        field.name
        for field in fields.values()
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", remedy="add the missing fields")
    return cls(**{name: _checked(value, str(fields[name].type), f"{where}: {name}") for name, value in values.items()})


def build_all(cls: type[T], values: object, where: str) -> tuple[T, ...]:
    """`build` of each entry of a list."""
    if not isinstance(values, list):
        raise ConfigError(f"{where} is not a list", expected="- entries", got=repr(values))
    return tuple(build(cls, value, f"{where} {i}") for i, value in enumerate(values, 1))


def _checked(value: Any, annotation: str, where: str) -> Any:
    kind, _, rest = annotation.partition("[")
    optional = annotation.endswith("| None")
    good = {
        "str": isinstance(value, str),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "Mapping": isinstance(value, Mapping),
        "tuple": isinstance(value, Sequence) and not isinstance(value, str),
    }[kind.removesuffix(" | None") if not rest else kind]
    if not good and not (optional and value is None):
        raise ConfigError(f"{where} has the wrong type", expected=annotation, got=repr(value))
    return tuple(value) if kind == "tuple" else value
