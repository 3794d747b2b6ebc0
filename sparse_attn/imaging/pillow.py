"""Keeping Pillow, and the C libraries behind it, strict and quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

_ONE_AT_A_TIME = threading.RLock()


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextlib.contextmanager
def strict_pillow() -> Iterator[None]:
    """Pillow without warnings, and refusing truncated files even where the process told it to pad them.

    What it changes belongs to the whole process, so one thread at a time is inside.
    """
    from PIL import ImageFile

    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silences the process's stderr: libtiff writes there, past Python, what Pillow then raises as well."""
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    with _ONE_AT_A_TIME, Path(os.devnull).open("wb") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
