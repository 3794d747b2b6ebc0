"""Generic networks with attention slots, and the registry of named configurations."""

from sparse_attn.backbones import nlsn
from sparse_attn.backbones.edsr import EDSR
from sparse_attn.backbones.entry import ModelEntry, models, register_model
from sparse_attn.backbones.network import SlottedNetwork
from sparse_attn.backbones.rcan import RCAN
from sparse_attn.backbones.slots import AttentionSpec, SlottedBody

__all__ = [
    "EDSR",
    "RCAN",
    "AttentionSpec",
    "ModelEntry",
    "SlottedBody",
    "SlottedNetwork",
    "models",
    "nlsn",
    "register_model",
]
