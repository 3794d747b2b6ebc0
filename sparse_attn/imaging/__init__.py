"""The door for pictures: files, tensors, resizing, luminance, PSNR and SSIM."""

from sparse_attn.imaging.colour import rgb_to_y
from sparse_attn.imaging.io import decode_image, read_image, write_image
from sparse_attn.imaging.metrics import psnr, psnr_y, ssim, ssim_y
from sparse_attn.imaging.photo import Photo
from sparse_attn.imaging.resize import resize
from sparse_attn.imaging.tensors import from_tensor, to_tensor

__all__ = [
    "Photo",
    "decode_image",
    "from_tensor",
    "psnr",
    "psnr_y",
    "read_image",
    "resize",
    "rgb_to_y",
    "ssim",
    "ssim_y",
    "to_tensor",
    "write_image",
]
