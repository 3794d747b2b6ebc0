"""Where weights come from, what layout they are in, and how they get into a model: strictly, or not at all."""

from sparse_attn.weights.files import read_config, read_weights
from sparse_attn.weights.hub import HubAccess, download, upload
from sparse_attn.weights.layouts import authors_state_dict, load_checkpoint
from sparse_attn.weights.zoo import find_pretrained, list_pretrained, local_weights, write_zoo_folder

__all__ = [
    "HubAccess",
    "authors_state_dict",
    "download",
    "find_pretrained",
    "list_pretrained",
    "load_checkpoint",
    "local_weights",
    "read_config",
    "read_weights",
    "upload",
    "write_zoo_folder",
]
