"""Training data: a memory-mapped cache of images, patches sampled from it, and batches on the device."""

from sparse_attn.data.cache import TileCache, build_cache, cache_root
from sparse_attn.data.loader import PatchLoader
from sparse_attn.data.patches import PatchSampler, dihedral
from sparse_attn.data.sources import iter_images

__all__ = ["PatchLoader", "PatchSampler", "TileCache", "build_cache", "cache_root", "dihedral", "iter_images"]
