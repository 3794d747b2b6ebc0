"""Importing this module registers every model of this package with timm: `timm.create_model("nlsn_light_x4")`.

Models that are registered with `register_model` afterwards follow with `register()`.
"""

from sparse_attn.timm_models.registration import register

__all__ = ["register"]

register()
