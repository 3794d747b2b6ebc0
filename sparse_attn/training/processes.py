"""How many processes train together, and on what: Hugging Face Accelerate decides, from how they were launched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparse_attn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from accelerate import Accelerator

_DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"


def make_accelerator(device: torch.device | None, *, trackers: tuple[str, ...], folder: Path) -> Accelerator:
    """An `Accelerator`: one process as usual, several under `torchrun` or `accelerate launch`.

    Precision is the recipe's business, not Accelerate's: hashing and the embeddings stay in float32 anyway, and bf16
    needs no loss scaling.

    Args:
        device: where to train; None for CUDA where there is some. Of several processes each takes the device of its
            local rank.
        trackers: names of experiment trackers.
        folder: where trackers that write files put them.

    Raises:
        ConfigError: a tracker that is not installed.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    _check_trackers(trackers)
    wanted = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several and PartialState._shared_state and PartialState().device != wanted:
        # The state is shared by all of a process's accelerators; an earlier run was on another device.
        AcceleratorState._reset_state(reset_partial_state=True)
    if wanted.type == "cuda":
        # Every batch of a stage has the same size: the fastest convolutions are worth looking for.
        torch.backends.cudnn.benchmark = True
    with _named_device(None if several else wanted):
        return Accelerator(
            cpu=wanted.type == "cpu", mixed_precision="no", log_with=list(trackers) or None, project_dir=folder
        )


def start_trackers(accelerator: Accelerator, trackers: tuple[str, ...], settings: Mapping[str, Any]) -> None:
    """Opens the experiment trackers and tells them the run's settings, those that are numbers or words."""
    if trackers:
        plain = {name: value for name, value in settings.items() if isinstance(value, int | float | str)}
        accelerator.init_trackers("sparse_attn", config=plain)


def agree(accelerator: Accelerator, *, places: float, due: bool, stop: bool) -> tuple[float, bool, bool]:
    """What all processes do next: the first one's `places` and `due`, and whether any of them wants to `stop`.

    Args:
        accelerator: the processes.
        places: how far the next step moves on the schedule.
        due: whether a checkpoint is.
        stop: whether an interruption has come.
    """
    if accelerator.num_processes == 1:
        return places, due, stop
    main = float(accelerator.is_main_process)
    own = torch.tensor([main * places, main * due, float(stop)], device=accelerator.device)
    first, second, third = accelerator.reduce(own, reduction="sum").tolist()
    return first, second > 0, third > 0


def check_same_place(step: int | None, folder: Path) -> None:
    """All processes have found the same checkpoint, or none.

    Raises:
        DataError: they have not: they do not share the run's folder.
    """
    from accelerate.utils import gather_object

    steps = gather_object([step])
    if len(set(steps)) > 1:
        found = ", ".join("none" if step is None else f"step {step}" for step in steps)
        raise DataError(
            f"the processes found different checkpoints in {folder}",
            got=found,
            remedy="put the run's folder on a file system that all of them share",
        )


@contextmanager
def _named_device(device: torch.device | None) -> Iterator[None]:
    before = os.environ.get(_DEVICE_VARIABLE)
    if device is not None:
        os.environ[_DEVICE_VARIABLE] = str(device)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_DEVICE_VARIABLE, None)
        else:
            os.environ[_DEVICE_VARIABLE] = before


def _check_trackers(trackers: tuple[str, ...]) -> None:
    from accelerate.utils import is_tensorboard_available, is_wandb_available

    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    for tracker in trackers:
        if not installed[tracker]():
            raise ConfigError(
                f"tracker {tracker!r} is not installed", remedy=f"pip install {tracker}, or take it off the recipe"
            )
