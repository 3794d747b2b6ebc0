"""The package's exceptions: each says what was wrong, what was expected, what was got, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SparseAttnError(Exception):
    """Base of every error the package raises on purpose.

    Args:
        problem: one sentence, what is wrong.
        expected: what would have been right.
        got: what was given instead.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, *, expected: object = None, got: object = None, remedy: str | None = None) -> None:
        self.problem, self.expected, self.got, self.remedy = problem, expected, got, remedy
        parts = [problem]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        text = ", ".join(parts)
        super().__init__(f"{text}; {remedy}" if remedy else text)

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(SparseAttnError, ValueError):
    """A setting, argument or shape that cannot be used."""


class UnknownNameError(SparseAttnError, LookupError):
    """A name that no registry holds."""


class WeightsError(SparseAttnError, RuntimeError):
    """Weights that are missing, damaged, or do not fit the model."""


class ImageError(SparseAttnError, OSError):
    """An image file that cannot be read or written."""


class DataError(SparseAttnError, OSError):
    """A data folder, archive or cache that cannot be used."""


class TrainingError(SparseAttnError, RuntimeError):
    """A run that cannot go on."""


class BuildError(SparseAttnError, RuntimeError):
    """Something that has to be compiled on this machine and cannot be."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that `kind` does not have, with its close matches."""
    names = sorted(known)
    close = get_close_matches(name, names, n=5, cutoff=0.5)
    remedy = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names) or 'none'}"
    return UnknownNameError(f"unknown {kind} {name!r}", remedy=remedy)
