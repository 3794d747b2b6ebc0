"""Attention in any network: inserted, exchanged, taken out, saved and loaded with the checkpoint."""

from sparse_attn.surgery.checkpoint import load_checkpoint, save_checkpoint
from sparse_attn.surgery.conversion_report import ConversionReport
from sparse_attn.surgery.convert import convert_attention
from sparse_attn.surgery.edits import apply_edits, model_edits
from sparse_attn.surgery.insert import Insertion, insert_attention
from sparse_attn.surgery.remove import remove_attention
from sparse_attn.surgery.swap import Swap, swap_attention
from sparse_attn.surgery.timm_hook import timm_attn

__all__ = [
    "ConversionReport",
    "Insertion",
    "Swap",
    "apply_edits",
    "convert_attention",
    "insert_attention",
    "load_checkpoint",
    "model_edits",
    "remove_attention",
    "save_checkpoint",
    "swap_attention",
    "timm_attn",
]
