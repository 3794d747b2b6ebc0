"""Random aligned LR/HR patches with flips and quarter turns, each place of the data seen once an epoch.

The stream of samples is infinite: position n is place n % L of the permutation of epoch n // L, which depends on the
seed and the epoch only. Micro-step t of several processes takes the next positions for all of them, each its own
share, so together they see what one with a larger batch would see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparse_attn.data.cache import TileCache
from sparse_attn.data.sources import ImageU8
from sparse_attn.data.storage import Storage, gather, walk
from sparse_attn.errors import ConfigError, DataError


def dihedral(image: ImageU8, which: int) -> ImageU8:
    """One of the eight symmetries of the square (0..7) applied to (H, W, C)."""
    if which & 4:
        image = image[:, ::-1]
    return np.rot90(image, which & 3)


@dataclass(frozen=True)
class Crops:
    """Where patches are, in LR pixels; each (B,), int64.

    Args:
        image: index in the cache.
        top: first row.
        left: first column.
        symmetry: 0 to 7, of `dihedral`.
    """

    image: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    symmetry: NDArray[np.int64]

    def __getitem__(self, places: NDArray[np.int64]) -> Crops:
        return Crops(self.image[places], self.top[places], self.left[places], self.symmetry[places])


class PatchSampler:
    """Batches of aligned patches; in an epoch each image is seen as often as patches fit into its area, at least once.

    Args:
        cache: the training images.
        patch: p, side of the LR patch, pixels.
        batch: B, patches in a batch of one process.
        seed: with the epoch's number, all that decides order, places and symmetries, so a resumed run sees the same.
        shard: which process this is, and of how many.

    Raises:
        ConfigError: an argument out of range.
        DataError: no image is as large as a patch.
    """

    def __init__(self, cache: TileCache, *, patch: int, batch: int, seed: int, shard: tuple[int, int] = (0, 1)) -> None:
        if min(patch, batch) < 1 or seed < 0:
            got = f"patch {patch}, batch {batch}, seed {seed}"
            raise ConfigError("bad patches", expected="patch and batch of at least 1, seed of at least 0", got=got)
        if not 0 <= shard[0] < shard[1]:
            raise ConfigError("bad shard", expected="(index, count) with 0 <= index < count", got=shard)
        self.cache, self.patch, self.batch, self.seed, self.shard = cache, patch, batch, seed, shard
        self._sides = np.array(cache.shapes, np.int64).reshape(-1, 2)
        fitting = np.flatnonzero(self._sides.min(axis=1) >= patch)
        if not len(fitting):
            raise DataError(
                "no training image is large enough",
                expected=f"an LR side of at least {patch} pixels",
                got=f"{len(cache)} smaller images",
                remedy="use larger images or a smaller patch",
            )
        times = np.rint(self._sides[fitting].prod(axis=1) / patch**2).astype(np.int64)
        self._images = np.repeat(fitting, np.maximum(times, 1))
        self._epochs: dict[int, Crops] = {}

    @property
    def epoch_length(self) -> int:
        """L, the number of samples of an epoch, over all processes."""
        return len(self._images)

    def crops_at(self, step: int) -> Crops:
        """Where the patches of micro-step `step` (0-based) are, for this process."""
        index, count = self.shard
        first = (step * count + index) * self.batch
        epochs, places = np.divmod(np.arange(first, first + self.batch), self.epoch_length)
        parts = [self._epoch(epoch)[places[epochs == epoch]] for epoch in range(epochs[0], epochs[-1] + 1)]
        if len(parts) == 1:
            return parts[0]
        names = ("image", "top", "left", "symmetry")
        return Crops(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def batch_at(self, step: int, storage: Storage | None = None) -> tuple[Tensor, Tensor]:
        """The patches of micro-step `step` (0-based), for this process.

        Args:
            step: t.
            storage: where the pixels are taken from, `cache.storage` or a copy; what is returned is on its device.

        Returns:
            (B, 3, p, p) LR and (B, 3, s*p, s*p) HR; uint8, channels_last.
        """
        crops, pixels = self.crops_at(step), self.cache.storage if storage is None else storage
        offset, width = self.cache.offsets[crops.image], self._sides[crops.image, 1]

        def patches(pixels: Tensor, scale: int) -> Tensor:
            side = self.patch * scale
            places = (offset * scale**2, width * scale, crops.top * scale, crops.left * scale)
            return gather(pixels, walk(*places, crops.symmetry, side=side), side=side)

        return patches(pixels.lr, 1), patches(pixels.hr, self.cache.scale)

    def _epoch(self, epoch: int) -> Crops:
        """All samples of an epoch, in its order."""
        drawn = self._epochs.get(epoch)
        if drawn is None:
            rng = np.random.default_rng((self.seed, epoch))
            image = rng.permutation(self._images)
            top, left = rng.integers(self._sides[image].T - self.patch + 1)
            drawn = Crops(image, top, left, rng.integers(8, size=len(image)))
            # A batch may straddle two epochs; a thread that makes batches ahead may be in the next.
            latest = list(self._epochs.items())[-1:]
            self._epochs = {**dict(latest), epoch: drawn}
        return drawn
