"""Networks to put attention into, and the blocks of other libraries to exchange."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SETTINGS = {"bucket_size": 3, "rounds": 2}


class UNet(nn.Module):
    """Plain modules, two scales, skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = self._stage(3, 13)
        self.down2 = self._stage(13, 26)
        self.middle = self._stage(26, 26)
        self.up2 = self._stage(52, 13)
        self.up1 = self._stage(26, 13)
        self.out = nn.Conv2d(13, 5, 1)

    @staticmethod
    def _stage(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        low = self.middle(F.max_pool2d(second, 2))
        high = self.up2(torch.cat([F.interpolate(low, second.shape[2:]), second], 1))
        return self.out(self.up1(torch.cat([F.interpolate(high, first.shape[2:]), first], 1)))


WHERE = {
    "timm.resnet50": "layer3.[024]",
    "timm.convnext_tiny": "stages.2.blocks.[048]",
    "timm.efficientnet_b0": ["blocks.4", "blocks.5.*"],
    "timm.regnety_016": ["s2", "s3.b[12]"],
    "torchvision.resnet18": "layer2",
    "torchvision.resnet50": "layer4.*",
    "unet": "up*",
}


@cache
def _original(name: str) -> nn.Module:
    library, _, architecture = name.partition(".")
    if library == "unet":
        return UNet()
    if library == "timm":
        import timm

        return timm.create_model(architecture, pretrained=False)
    import torchvision

    return torchvision.models.get_model(architecture, weights=None)


def network(name: str) -> nn.Module:
    """A fresh copy, in eval mode."""
    return copy.deepcopy(_original(name)).eval()


class ConvModule(nn.Module):
    """As mmcv's: a convolution and perhaps a batch norm."""

    def __init__(self, before: int, after: int, *, norm: bool = False, wide: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3 if wide else 1, padding=int(wide), bias=not norm)
        if norm:
            self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) if "bn" in self._modules else x


class NonLocal2d(nn.Module):
    """A block of the parts and the function of mmcv's."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        use_scale: bool = False,
        norm: bool = False,
        pool: bool = False,
        softmax: bool = True,
        out: str = "conv_out",
    ) -> None:
        super().__init__()
        self.use_scale, self.softmax, self.out = use_scale, softmax, out
        self.theta, self.phi, self.g = (ConvModule(channels, width) for _ in range(3))
        self.register_module(out, ConvModule(width, channels, norm=norm))
        if pool:
            self.g, self.phi = (nn.Sequential(part, nn.MaxPool2d(2)) for part in (self.g, self.phi))

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        scores = theta.mT @ phi
        if self.use_scale:
            scores = scores / theta.shape[1] ** 0.5
        weights = scores.softmax(-1) if self.softmax else scores / scores.shape[-1]
        mixed = (g @ weights.mT).unflatten(2, x.shape[2:])
        return x + self.get_submodule(self.out)(mixed)


class WithBlock(nn.Module):
    """A convolution and a block after it."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.conv(x))


def shaken(module: nn.Module) -> nn.Module:
    """The module with every weight and every running statistic off its first value."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.3 * (torch.rand(tensor.shape, generator=generator) - 0.5))
    return module.eval()
