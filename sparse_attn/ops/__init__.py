"""Pure tensor functions without parameters: hashing, grouping, attending, merging, and their slow twins."""

from sparse_attn.ops.backends import flop_formulas
from sparse_attn.ops.backends.native_build import build_native
from sparse_attn.ops.bucket_attention import attend
from sparse_attn.ops.counter_random import random_bits, random_normal, random_order
from sparse_attn.ops.grouping import Boundary, Buckets, Groups, KeyLists
from sparse_attn.ops.hashing import bucket_count, hash_codes, sort_by_code
from sparse_attn.ops.merging import merge_rounds
from sparse_attn.ops.windows import over_windows

__all__ = [
    "Boundary",
    "Buckets",
    "Groups",
    "KeyLists",
    "attend",
    "bucket_count",
    "build_native",
    "flop_formulas",
    "hash_codes",
    "merge_rounds",
    "over_windows",
    "random_bits",
    "random_normal",
    "random_order",
    "sort_by_code",
]
