"""Luminance PSNR on a folder of HR images, LR made by the package's own bicubic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_attn.attention.health import attention_health
from sparse_attn.data import iter_images
from sparse_attn.errors import DataError
from sparse_attn.imaging import psnr, resize, rgb_to_y

if TYPE_CHECKING:
    from accelerate import Accelerator


class ValidationSet:
    """Decoded once, measured often.

    Args:
        folder: HR images.
        scale: s; images are cropped to multiples of it.

    Raises:
        DataError: no image in the folder, or one that is too small.
    """

    def __init__(self, folder: Path, scale: int) -> None:
        self.scale = scale
        self.pairs: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = []
        for name, image in iter_images(folder):
            height, width = (side - side % scale for side in image.shape[:2])
            if min(height, width) <= 2 * scale:
                raise DataError(
                    f"validation image {name} in {folder} is too small",
                    expected=f"sides of more than {2 * scale} pixels, as {scale} are cut from each border",
                    got=f"{image.shape[0]}x{image.shape[1]}",
                )
            hr = image[:height, :width]
            self.pairs.append((resize(hr, 1 / scale), hr))
        if not self.pairs:
            raise DataError(f"no validation images in {folder}", remedy="put some there, or check val")

    def measure_together(
        self, model: nn.Module, accelerator: Accelerator, *, bf16: bool, images: int | None, rgb_range: float
    ) -> list[float]:
        """What `measure` returns for all of them, of which each process has measured its part."""
        from accelerate.utils import gather_object

        index, count = accelerator.process_index, accelerator.num_processes
        mine = self.measure(
            model, device=accelerator.device, bf16=bf16, images=images, rgb_range=rgb_range, part=(index, count)
        )
        numbered = gather_object([(index + i * count, value) for i, value in enumerate(mine)])
        return [value for _, value in sorted(numbered)]

    @torch.inference_mode()
    def measure(
        self,
        model: nn.Module,
        *,
        device: torch.device,
        bf16: bool,
        images: int | None = None,
        rgb_range: float = 1.0,
        part: tuple[int, int] = (0, 1),
    ) -> list[float]:
        """PSNR of Y of each image, dB, border = scale.

        Args:
            model: the network.
            device: where it is.
            bf16: under autocast.
            images: the first so many; all if None.
            rgb_range: the value of white in the network's input and output.
            part: (i, n): only each n-th of them, from the i-th on; n processes share them so.
        """
        training = model.training
        model.eval()
        values = []
        for lr, hr in self.pairs[:images][part[0] :: part[1]]:
            x = _input(lr, device, rgb_range)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                out = model(x.to(memory_format=torch.channels_last))
            sr = ((out[0].float() / rgb_range).clamp(0, 1) * 255.0 + 0.5).floor().permute(1, 2, 0).cpu().numpy()
            values.append(psnr(rgb_to_y(sr), rgb_to_y(hr), border=self.scale))
        model.train(training)
        return values

    def health(self, model: nn.Module, *, rgb_range: float = 1.0) -> dict[str, float]:
        """What `attention_health` measures on the first image; empty for a network without attention."""
        device = next(model.parameters()).device
        return attention_health(model, _input(self.pairs[0][0], device, rgb_range))


def _input(pixels: NDArray[np.generic], device: torch.device, rgb_range: float) -> Tensor:
    """(H, W, 3) of 0..255 -> (1, 3, H, W) of 0..rgb_range."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return x.permute(2, 0, 1)[None].float() * (rgb_range / 255.0)
