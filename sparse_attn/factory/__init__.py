"""Models by name or from a folder or the Hub, and back: building them with the right weights, and sharing them."""

from sparse_attn.factory.create import create_model, is_model, list_models, model_config, register_model
from sparse_attn.factory.origin import Origin, origin_of
from sparse_attn.factory.share import push_to_hub, save_pretrained

__all__ = [
    "Origin",
    "create_model",
    "is_model",
    "list_models",
    "model_config",
    "origin_of",
    "push_to_hub",
    "register_model",
    "save_pretrained",
]
