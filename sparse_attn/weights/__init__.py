"""Where weights come from, what layout they are in, and how they get into a model: strictly, or not at all."""

from sparse_attn.weights.files import read_config, read_weights
from sparse_attn.weights.layouts import load_checkpoint
from sparse_attn.weights.zoo import find_pretrained, list_pretrained, write_zoo_folder

__all__ = [
    "find_pretrained",
    "list_pretrained",
    "load_checkpoint",
    "read_config",
    "read_weights",
    "write_zoo_folder",
]
