"""Making things ahead of the one who needs them, in a thread or in processes, and leaving neither behind."""

from __future__ import annotations

import itertools
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import torch

from sparse_attn.errors import SparseAttnError

Item = TypeVar("Item")
Made = TypeVar("Made", covariant=True)
_AHEAD = 2


class Shelf(Protocol[Made]):
    """What can be asked for its item `index`."""

    def __getitem__(self, index: int, /) -> Made: ...


def in_thread(make: Callable[[int], Item], start: int) -> Generator[Item, None, None]:
    """`make(start)`, `make(start + 1)`, ... without end, made by a thread that is a few ahead.

    What `make` raises is raised here. Closing the generator, or losing it, ends the thread.
    """
    work = _Work[Item]()
    thread = threading.Thread(target=_run, args=(work, make, start), name="sparse-attn-data", daemon=True)
    thread.start()
    try:
        while True:
            item, error = work.made.get()
            if error is not None:
                raise error
            work.room.release()
            yield item  # type: ignore[misc]
    finally:
        work.stopped = True
        work.room.release()
        # The collector of garbage runs in any thread.
        if thread is not threading.current_thread():
            thread.join()


class _Work(Generic[Item]):
    """What the thread and its consumer share; neither holds the other, so a consumer that is lost is collected."""

    def __init__(self) -> None:
        self.made: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
        self.room = threading.Semaphore(_AHEAD)
        self.stopped = False


def _run(work: _Work[Item], make: Callable[[int], Item], start: int) -> None:
    for index in itertools.count(start):
        work.room.acquire()
        if work.stopped:
            return
        try:
            made = make(index)
        except BaseException as error:  # noqa: BLE001 - it is raised in the consumer
            work.made.put((None, error))
            return
        work.made.put((made, None))


def in_processes(
    shelf: Shelf[Item], indices: Iterable[int], *, workers: int, pin_memory: bool = False
) -> Generator[Item, None, None]:
    """The items of a shelf, in order, made by worker processes that are a few ahead; by this one if there are none.

    What a worker raises is raised here, as the same type. Closing the generator, or losing it, ends the workers.

    Args:
        shelf: asked for its items in the workers.
        indices: which items.
        workers: how many processes; 0 for this one.
        pin_memory: whether tensors are moved to memory that a GPU copies from faster.
    """
    if workers == 0:
        yield from map(shelf.__getitem__, indices)
        return
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Answers(shelf),  # type: ignore[arg-type]
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        # Its own, since the loader draws a seed, and must not from the generator that everything else draws from.
        generator=torch.Generator(),
    )
    with warnings.catch_warnings():
        # Workers are forked although PyTorch has threads; they use none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        iterator: Any = iter(loader)
    try:
        for item, error in iterator:
            if error is not None:
                raise error
            yield item
    finally:
        # An exception's traceback may keep the iterator alive, and with it its processes.
        iterator._shutdown_workers()


class _Answers(Generic[Item]):
    """A shelf whose errors that are meant for people come without the traceback that the loader would put into them."""

    def __init__(self, shelf: Shelf[Item]) -> None:
        self.shelf = shelf

    def __getitem__(self, index: int) -> tuple[Item | None, SparseAttnError | None]:
        try:
            return self.shelf[index], None
        except SparseAttnError as error:
            return None, error


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C, and the end of a job, reach all its processes; what follows is the first one's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
