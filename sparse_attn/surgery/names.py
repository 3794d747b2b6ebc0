"""Which modules are meant: dotted globs, types and predicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from sparse_attn.attention import Attention2d
from sparse_attn.errors import ConfigError

Where = str | Sequence[str] | type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool]
Names = Mapping[nn.Module, Sequence[str]]


def matches(pattern: str, name: str) -> bool:
    """Whether a dotted name matches a glob: `*` stays within one part of the name, `**` is any number of parts."""
    return _match(pattern.split("."), name.split("."))


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module below the root, in order, with all the names it goes by."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            names.setdefault(module, []).append(name)
    return names


def outside_attention(names: Names) -> dict[nn.Module, list[str]]:
    """Those that are neither an attention of this package nor part of one."""
    inside = {part for module in names if isinstance(module, Attention2d) for part in module.modules()}
    return {module: list(own) for module, own in names.items() if module not in inside}


def choose(names: Names, where: Where, *, below: bool = False) -> dict[nn.Module, list[str]]:
    """The modules that are meant.

    Args:
        names: those there are to choose from.
        where: a glob or a list of them, a type or a tuple of them, or a function of (name, module).
        below: a glob also means what lies below the modules it matches.

    Raises:
        ConfigError: a glob matches nothing, or two match the same module; nothing was chosen; a bad `where`.
    """
    if isinstance(where, type) or (isinstance(where, tuple) and all(isinstance(part, type) for part in where)):
        chosen = {module: list(own) for module, own in names.items() if isinstance(module, where)}
    elif isinstance(where, str | Sequence) and all(isinstance(part, str) for part in where):
        patterns = [where] if isinstance(where, str) else list(where)
        chosen = _choose_by_globs(names, [str(pattern) for pattern in patterns], below=below)
    elif callable(where):
        chosen = {module: list(own) for module, own in names.items() if any(where(name, module) for name in own)}
    else:
        raise ConfigError("bad where", expected="globs, types, or a function of (name, module)", got=repr(where))
    if not chosen:
        raise nothing_found(repr(where), [name for own in names.values() for name in own])
    return chosen


def nothing_found(what: str, known: Iterable[str]) -> ConfigError:
    """The error for a pattern that no module matches."""
    names = list(known)
    close = get_close_matches(what.strip("'"), names, n=5, cutoff=0.4)
    hint = f"near it: {', '.join(close)}" if close else f"there are, among others: {', '.join(names[:8]) or 'none'}"
    return ConfigError(f"no module matches {what}", remedy=f"{hint} (* stays between two dots, ** crosses them)")


def _choose_by_globs(names: Names, patterns: Sequence[str], *, below: bool) -> dict[nn.Module, list[str]]:
    chosen: dict[nn.Module, list[str]] = {}
    by: dict[nn.Module, str] = {}
    for pattern in patterns:
        found = [module for module, own in names.items() if any(_meant(pattern, name, below=below) for name in own)]
        if not found:
            raise nothing_found(repr(pattern), [name for own in names.values() for name in own])
        for module in found:
            if module in by:
                raise ConfigError(
                    "patterns overlap",
                    expected="each module in one of them",
                    got=f"{names[module][0]} in {by[module]!r} and {pattern!r}",
                    remedy="drop one, or make it narrower",
                )
            by[module] = pattern
    for module, own in names.items():
        if module in by:
            chosen[module] = list(own)
    return chosen


def _meant(pattern: str, name: str, *, below: bool) -> bool:
    parts = name.split(".")
    ends = range(1, len(parts) + 1) if below else [len(parts)]
    return any(matches(pattern, ".".join(parts[:end])) for end in ends)


def _match(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_match(pattern[1:], parts[start:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _match(pattern[1:], parts[1:])
