"""Building blocks without attention: residual blocks, upsamplers, the colour shift."""

from sparse_attn.layers.mean_shift import MeanShift
from sparse_attn.layers.residual import ChannelAttention, ResBlock, ResChannelAttentionBlock
from sparse_attn.layers.upsample import Upsampler

__all__ = ["ChannelAttention", "MeanShift", "ResBlock", "ResChannelAttentionBlock", "Upsampler"]
