"""Objects in processes of their own, so that the allocator of one contender knows nothing of another's."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from sparse_attn.errors import SparseAttnError

_PATIENCE = 5.0


class WorkerError(SparseAttnError, RuntimeError):
    """A worker that could not do what it was asked, or has ended."""


def serve(connection: Connection, threads: int, make: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """The worker's side: makes an object, then answers (method, arguments) with its result."""
    # Ctrl-C reaches the whole group of processes; the parent is the one to act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    subject: object = None
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            return
        try:
            subject = make(*arguments) if subject is None else subject
            connection.send((True, getattr(subject, method)(*given)))
        except (RuntimeError, MemoryError, SparseAttnError) as error:
            first = (str(error).strip() or type(error).__name__).split("\n")[0]
            connection.send((False, first))


class Remote:
    """The parent's side.

    Args:
        make: a class, or what else makes the object; it is found by its name in the new process.
        arguments: of it.
        threads: of PyTorch in the worker.
    """

    def __init__(self, make: Callable[..., object], *arguments: Any, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, threads, make, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the object returns.

        Raises:
            WorkerError: it failed with an error that is not a bug, or its process has ended.
        """
        try:
            self.connection.send((method, arguments))
            good, value = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(_PATIENCE)
            raise WorkerError(
                f"its process ended with code {self.process.exitcode}", remedy="-9 is mostly the lack of memory"
            ) from error
        if not good:
            raise WorkerError(value)
        return value

    def close(self) -> None:
        """Ends the process: in order if it can, as a compiler may have processes of its own."""
        self.connection.close()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
