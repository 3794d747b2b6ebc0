"""From photo to photo with a model."""

from sparse_attn.inference.upscaler import Upscaler, upscale

__all__ = ["Upscaler", "upscale"]
