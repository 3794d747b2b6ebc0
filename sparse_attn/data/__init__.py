"""Training data: a memory-mapped cache of images and a sampler of random patches."""

from sparse_attn.data.cache import TileCache, build_cache, cache_root, iter_images
from sparse_attn.data.patches import PatchSampler, dihedral

__all__ = ["PatchSampler", "TileCache", "build_cache", "cache_root", "dihedral", "iter_images"]
