"""One class that maps names to things; attentions and models each have an instance of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from sparse_attn.errors import ConfigError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things, loud about duplicates and unknown names.

    Args:
        kind: what the things are, for error messages ("attention", "model").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that files the decorated thing under `name`.

        Raises:
            ConfigError: the name is taken by something else, or is not a lower-case identifier.
        """
        if not name.isidentifier() or name != name.lower():
            raise ConfigError(
                f"bad {self.kind} name", expected="a lower-case identifier", got=repr(name), remedy="rename it"
            )

        def add(thing: T) -> T:
            if name in self._entries and self._entries[name] is not thing:
                raise ConfigError(
                    f"{self.kind} {name!r} is registered twice",
                    got=repr(thing),
                    remedy="give one of them another name",
                )
            self._entries[name] = thing
            return thing

        return add

    def get(self, name: str) -> T:
        """The thing registered as `name`.

        Raises:
            UnknownNameError: no such name; the message lists close matches.
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def names(self, pattern: str = "*") -> list[str]:
        """The sorted names that match a shell wildcard."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._entries)
