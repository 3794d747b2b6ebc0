"""Interchangeable 2D attention blocks for PyTorch, dense and sparse, and super-resolution networks built on them."""

from sparse_attn.attention import (
    Attention2d,
    attention_health,
    check,
    configure_attention,
    create_attention,
    list_attention,
    probe,
    register_attention,
    use_rotations,
)
from sparse_attn.errors import SparseAttnError
from sparse_attn.evaluation import evaluate
from sparse_attn.factory import (
    create_model,
    is_model,
    list_models,
    model_config,
    push_to_hub,
    register_model,
    save_pretrained,
)
from sparse_attn.imaging import Photo, psnr, read_image, resize, ssim, write_image
from sparse_attn.inference import Upscaler, upscale
from sparse_attn.ops import build_native
from sparse_attn.summary import summary
from sparse_attn.surgery import (
    apply_edits,
    convert_attention,
    insert_attention,
    load_checkpoint,
    model_edits,
    remove_attention,
    save_checkpoint,
    swap_attention,
    timm_attn,
)
from sparse_attn.weights import authors_state_dict

__version__ = "0.1.0.dev0"

__all__ = [
    "Attention2d",
    "Photo",
    "SparseAttnError",
    "Upscaler",
    "__version__",
    "apply_edits",
    "attention_health",
    "authors_state_dict",
    "build_native",
    "check",
    "configure_attention",
    "convert_attention",
    "create_attention",
    "create_model",
    "evaluate",
    "insert_attention",
    "is_model",
    "list_attention",
    "list_models",
    "load_checkpoint",
    "model_config",
    "model_edits",
    "probe",
    "psnr",
    "push_to_hub",
    "read_image",
    "register_attention",
    "register_model",
    "remove_attention",
    "resize",
    "save_checkpoint",
    "save_pretrained",
    "ssim",
    "summary",
    "swap_attention",
    "timm_attn",
    "upscale",
    "use_rotations",
    "write_image",
]
