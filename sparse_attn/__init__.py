"""Interchangeable 2D attention blocks for PyTorch, dense and sparse, and super-resolution networks built on them."""

from sparse_attn.attention import (
    Attention2d,
    configure_attention,
    create_attention,
    list_attention,
    register_attention,
    use_rotations,
)
from sparse_attn.errors import SparseAttnError
from sparse_attn.evaluation import evaluate
from sparse_attn.factory import create_model, is_model, list_models, model_config, register_model
from sparse_attn.imaging import Photo, psnr, read_image, resize, ssim, write_image
from sparse_attn.inference import Upscaler, upscale
from sparse_attn.summary import summary
from sparse_attn.weights import load_checkpoint

__version__ = "0.1.0.dev0"

__all__ = [
    "Attention2d",
    "Photo",
    "SparseAttnError",
    "Upscaler",
    "__version__",
    "configure_attention",
    "create_attention",
    "create_model",
    "evaluate",
    "is_model",
    "list_attention",
    "list_models",
    "load_checkpoint",
    "model_config",
    "psnr",
    "read_image",
    "register_attention",
    "register_model",
    "resize",
    "ssim",
    "summary",
    "upscale",
    "use_rotations",
    "write_image",
]
