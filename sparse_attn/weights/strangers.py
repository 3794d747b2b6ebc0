"""Networks that are often met and that no backbone here computes: by what they are told, and why not."""

from __future__ import annotations

import re
from collections.abc import Iterable

# First match counts. Each: a name that only such networks have, and what to say about them.
_STRANGERS = [
    (r"body\.blocks\.\d+\.|body_conv\.", "this package's own layout, which needs no import: pass it as checkpoint="),
    (r"(.+\.)?(rdb\d|RDB\d|sub\.\d+\.RDB\d)\.", "an RRDB network (ESRGAN) of dense blocks, no backbone here"),
    (r"(upconv1|HRconv|conv_hr)\.", "an SRResNet (BasicSR's MSRResNet): its leaky ReLUs and its skip of the enlarged "
     "picture are not EDSR's"),
    (r"(.+\.)?(attn\.qkv|relative_position_bias_table|attn\.w_qs)\b", "a transformer (SwinIR, HAT and the like), not a "
     "convolutional EDSR, RCAN or NLSN"),
    (r"(conv\d_\d|bn\d_\d|classifier\.\d+|conv0)\.(weight|weight_orig|bias)$", "a discriminator or classifier of "
     "pictures, which enlarges none"),
    (r"(layer\d\.\d+\.|fc\.|conv1\.|bn1\.)", "a network that classifies (as ResNet), which enlarges no picture"),
    (r"(pre_process|upsample\.[012]\.0\.\d)", "an MDSR: several scales in one network, no backbone here"),
    (r"(SFENet1|RDBs)\.", "an RDN of residual dense blocks, no backbone here"),
    (r"(SEM|RG\.\d+|body_nl_low)\.", "a CSNLN, SAN or RNAN, no backbone here"),
    (r"(.+\.)?running_mean$", "a network with batch normalisation, which none of the backbones has"),
]  # fmt: skip


def name_stranger(names: Iterable[str]) -> str | None:
    """What a state dict is that has these names, and why it is no use here; None where that is not known."""
    given = list(names)
    return next((what for name, what in _STRANGERS if any(re.match(name, other) for other in given)), None)
