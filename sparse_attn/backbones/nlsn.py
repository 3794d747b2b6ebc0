"""NLSN: EDSR with Non-Local Sparse Attention in its slots (Mei, Fan, Zhou, CVPR 2021, section 4.2).

A configuration, not a network of its own. The published one has 32 blocks, 256 wide, and five attentions: before the
first block and after every eighth.
"""

from __future__ import annotations

from sparse_attn.backbones.edsr import EDSR
from sparse_attn.backbones.entry import register_model

NLSA_KWARGS = {"bucket_size": 144, "rounds": 4}

for _scale in (2, 3, 4):
    register_model(
        f"nlsn_x{_scale}",
        EDSR,
        scale=_scale,
        n_resblocks=32,
        n_feats=256,
        res_scale=0.1,
        attention="nlsa",
        attention_at=(0, 8, 16, 24, 32),
        attention_kwargs=NLSA_KWARGS,
    )
    register_model(
        f"nlsn_light_x{_scale}",
        EDSR,
        scale=_scale,
        n_resblocks=16,
        n_feats=64,
        res_scale=1.0,
        attention="nlsa",
        attention_at=(0, 8, 16),
        attention_kwargs=NLSA_KWARGS,
    )
