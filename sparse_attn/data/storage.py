"""All pixels of a cache as two flat tensors, on any device, and patches gathered from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of the memory that is free on a GPU: activations need the rest.
RESIDENT_FRACTION = 0.4

# How many rows and columns of a crop lie between two rows of what 0 to 3 quarter turns make of it.
_DOWN = np.array([[1, 0, -1, 0], [0, -1, 0, 1]])


@dataclass(frozen=True)
class Storage:
    """The images of a cache one after another, row by row; RGB, uint8.

    Args:
        lr: (N, 3).
        hr: (s * s * N, 3).
    """

    lr: Tensor
    hr: Tensor

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.lr.nbytes + self.hr.nbytes

    def to(self, device: torch.device) -> Storage:
        """A copy there, in that device's memory even where this one is a file's."""
        return Storage(*(torch.empty_like(part, device=device).copy_(part) for part in (self.lr, self.hr)))


def fits(storage: Storage, device: torch.device) -> bool:
    """Whether it takes at most RESIDENT_FRACTION of what is free on a CUDA device; False for any other device."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return storage.nbytes <= RESIDENT_FRACTION * free


def walk(
    offset: NDArray[np.int64],
    width: NDArray[np.int64],
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    symmetry: NDArray[np.int64],
    *,
    side: int,
) -> NDArray[np.int64]:
    """Where in a flat file the pixels of square crops lie, once turned and mirrored.

    Each of the eight symmetries of the square only changes where a walk over the crop begins and which way it goes, so
    output pixel (i, j) of a crop lies at `start + i * down + j * right`.

    Args:
        offset: (B,) where each image begins, pixels.
        width: (B,) of each image.
        top: (B,) the crop's first row.
        left: (B,) its first column.
        symmetry: (B,) 0 to 7, as for `dihedral`: mirrored if it has bit 4, then turned by its other bits.
        side: of the crops.

    Returns:
        (3, B): start, down, right.
    """
    turns, mirrored = symmetry & 3, (symmetry & 4) > 0
    sign = np.where(mirrored, -1, 1)
    first_row = np.isin(turns, (2, 3))
    first_column = np.isin(turns, (1, 2)) ^ mirrored
    start = offset + (top + first_row * (side - 1)) * width + left + first_column * (side - 1)
    down_rows, down_columns = _DOWN[:, turns]
    # Right is where up would be after one turn more.
    left_rows, left_columns = _DOWN[:, (turns + 1) % 4]
    return np.stack([start, down_rows * width + down_columns * sign, -left_rows * width - left_columns * sign])


def gather(pixels: Tensor, steps: NDArray[np.int64], *, side: int) -> Tensor:
    """Patches out of a flat file, in one indexing.

    Args:
        pixels: (N, 3) uint8.
        steps: (3, B) of `walk`.
        side: of the patches.

    Returns:
        (B, 3, side, side) uint8, channels_last, on the device of `pixels`.
    """
    return (_gather_on_cpu if pixels.device.type == "cpu" else gather_on_device)(pixels, steps, side)


def _gather_on_cpu(pixels: Tensor, steps: NDArray[np.int64], side: int) -> Tensor:
    """By NumPy, in one thread.

    Where a second thread of a process uses OpenMP, the threads of the first no longer wait actively for each other, and
    a training step takes half as long again.
    """
    start, down, right = steps[:, :, None, None]
    along = np.arange(side)
    index = start + along[:, None] * down + along * right
    taken = torch.from_numpy(pixels.numpy().take(index.ravel(), axis=0))
    return taken.view(-1, side, side, 3).permute(0, 3, 1, 2)


def gather_on_device(pixels: Tensor, steps: NDArray[np.int64], side: int) -> Tensor:
    """By PyTorch, on any device."""
    start, down, right = torch.from_numpy(steps).to(pixels.device)[:, :, None, None]
    along = torch.arange(side, device=pixels.device)
    index = start + along[:, None] * down + along * right
    return pixels.index_select(0, index.flatten()).view(-1, side, side, 3).permute(0, 3, 1, 2)
