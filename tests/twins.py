"""BasicSR's EDSR, RCAN and MSRResNet in plain PyTorch, with its names; small networks of ours; and saving them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.backbones import EDSR, RCAN
from sparse_attn.weights.layouts import fit_weights
from sparse_attn.weights.recognise import Recognised

MEAN = (0.4488, 0.4371, 0.4040)


def conv(before: int, after: int, side: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, side, padding=side // 2)


class Upsample(nn.Sequential):
    def __init__(self, scale: int, width: int) -> None:
        factors = {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}[scale]
        super().__init__(
            *(part for factor in factors for part in (conv(width, factor**2 * width), nn.PixelShuffle(factor)))
        )


class EdsrBlock(nn.Module):
    def __init__(self, width: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1, self.conv2 = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.conv2(self.conv1(x).relu())


class Squeeze(nn.Module):
    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        narrow = width // squeeze
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(width, narrow, 1), nn.ReLU(), conv(narrow, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class RcanBlock(nn.Module):
    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.rcab = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width), Squeeze(width, squeeze))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rcab(x)


class RcanGroup(nn.Module):
    def __init__(self, width: int, blocks: int, squeeze: int) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(*(RcanBlock(width, squeeze) for _ in range(blocks)))
        self.conv = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))


class BasicSR(nn.Module):
    """Takes and gives colours of 0 to 1; `img_range` is what it reckons with inside."""

    def __init__(self, body: list[nn.Module], *, width: int, scale: int, img_range: float) -> None:
        super().__init__()
        self.img_range = img_range
        self.conv_first = conv(3, width)
        self.body = nn.Sequential(*body)
        self.conv_after_body = conv(width, width)
        self.upsample = Upsample(scale, width)
        self.conv_last = conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(MEAN).to(x)[None, :, None, None]
        shallow = self.conv_first((x - mean) * self.img_range)
        deep = shallow + self.conv_after_body(self.body(shallow))
        return self.conv_last(self.upsample(deep)) / self.img_range + mean


def basicsr_edsr(
    *, width: int = 6, blocks: int = 3, scale: int = 2, img_range: float = 255.0, res_scale: float = 1.0
) -> BasicSR:
    return BasicSR([EdsrBlock(width, res_scale) for _ in range(blocks)], width=width, scale=scale, img_range=img_range)


def basicsr_rcan(
    *, width: int = 8, groups: int = 3, blocks: int = 2, squeeze: int = 4, scale: int = 2, img_range: float = 255.0
) -> BasicSR:
    body: list[nn.Module] = [RcanGroup(width, blocks, squeeze) for _ in range(groups)]
    return BasicSR(body, width=width, scale=scale, img_range=img_range)


def msrresnet(width: int = 6) -> nn.Module:
    """Its names only."""
    body = nn.Sequential(*(EdsrBlock(width, 1.0) for _ in range(2)))
    parts = {"conv_first": conv(3, width), "body": body, "upconv1": conv(width, 4 * width)}
    return nn.Sequential(OrderedDict({**parts, "conv_hr": conv(width, width), "conv_last": conv(width, 3)}))


def discriminator(width: int = 4) -> nn.Module:
    """The names of BasicSR's VGG-style one."""
    parts = {"conv0_0": conv(3, width), "conv0_1": conv(width, width), "bn0_1": nn.BatchNorm2d(width)}
    return nn.Sequential(OrderedDict({**parts, "linear1": nn.Linear(width, 1)}))


def small_edsr(**changes: Any) -> EDSR:
    return EDSR(**{"scale": 2, "n_resblocks": 2, "n_feats": 8, "res_scale": 1.0, "rgb_range": 255.0, **changes})


def small_rcan(**changes: Any) -> RCAN:
    return RCAN(**{"scale": 2, "n_resgroups": 2, "n_resblocks": 2, "n_feats": 8, "reduction": 4, **changes})


def built(found: Recognised) -> nn.Module:
    """The network that was recognised, with its weights."""
    model = (RCAN if found.family == "rcan" else EDSR)(**found.config)
    model.load_state_dict(fit_weights(model, found.weights, "the file"))
    return model


def saved(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
