"""Ctrl-C, and the signal that ends a job on a shared machine, wait for the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM do not interrupt what runs within; what is yielded says whether one has come.

    Raised within a step, an interruption would tear the run's state apart. Outside the main thread, where Python has
    no signal handlers, nothing is held back.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = {number: signal.signal(number, lambda *_: came.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
