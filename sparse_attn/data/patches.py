"""Random aligned LR/HR patches with flips and quarter turns; batch i is a pure function of (seed, i)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparse_attn.data.cache import ImageU8, TileCache
from sparse_attn.errors import DataError


def dihedral(image: ImageU8, which: int) -> ImageU8:
    """One of the eight symmetries of the square (0..7) applied to (H, W, C)."""
    if which & 4:
        image = image[:, ::-1]
    return np.rot90(image, which & 3)


class PatchSampler:
    """Batches of aligned patches, images chosen in proportion to their area.

    Args:
        cache: the training images.
        patch: side of the LR patch, pixels.
        batch: patches in a batch.
        seed: with the batch's number, all that decides what is in it, so a resumed run sees the same batches.

    Raises:
        DataError: no image is as large as a patch.
    """

    def __init__(self, cache: TileCache, *, patch: int, batch: int, seed: int) -> None:
        self.cache, self.patch, self.batch, self.seed = cache, patch, batch, seed
        fitting = [i for i, shape in enumerate(cache.shapes) if min(shape) >= patch]
        if not fitting:
            raise DataError(
                "no training image is large enough",
                expected=f"an LR side of at least {patch} pixels",
                got=f"{len(cache)} smaller images",
                remedy="use larger images or a smaller patch",
            )
        area = np.array([cache.shapes[i][0] * cache.shapes[i][1] for i in fitting], np.float64)
        self._fitting, self._probability = np.array(fitting), area / area.sum()

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """(B, 3, p, p) LR and (B, 3, s*p, s*p) HR, float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, step))
        s, p = self.cache.scale, self.patch
        lrs, hrs = [], []
        for index in rng.choice(self._fitting, self.batch, p=self._probability):
            lr, hr = self.cache.pair(int(index))
            top = int(rng.integers(lr.shape[0] - p + 1))
            left = int(rng.integers(lr.shape[1] - p + 1))
            which = int(rng.integers(8))
            lrs.append(dihedral(lr[top : top + p, left : left + p], which))
            hrs.append(dihedral(hr[top * s : (top + p) * s, left * s : (left + p) * s], which))
        return tuple(torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).float() / 255.0 for x in (lrs, hrs))  # type: ignore[return-value]
