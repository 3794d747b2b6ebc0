"""What EDSR and RCAN share around their bodies: head, long skip, sub-pixel tail, and feature maps for others to use.

The methods for features follow timm's convention: `forward_intermediates`, `feature_info`, `prune_intermediate_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Literal, overload

from torch import Tensor, nn

from sparse_attn.backbones.slots import SlottedBody
from sparse_attn.errors import ConfigError


class SlottedNetwork(nn.Module):
    """Super-resolution by a head, a body of blocks and attentions with a long skip, and a sub-pixel tail.

    A subclass makes the modules named here, in `__init__`.
    """

    scale: int
    in_chans: int
    rgb_range: float
    sub_mean: nn.Module
    head: nn.Conv2d
    body: SlottedBody
    body_conv: nn.Module
    upsampler: nn.Module
    tail: nn.Module
    add_mean: nn.Module

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For each block of the body its map's channels, its reduction (none: 1), and the module that gives it."""
        return [
            {"num_chs": self.head.out_channels, "reduction": 1, "module": f"body.{name}"}
            for name in self.body.outlets()
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, in_chans, s*H, s*W)."""
        return self.add_mean(self.tail(self.upsampler(self.forward_features(x))))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H, W): everything before the enlargement."""
        shallow = self.head(self.sub_mean(x))
        return shallow + self.body_conv(self.body(shallow))

    @overload
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: Literal[False] = False,
    ) -> tuple[Tensor, list[Tensor]]: ...
    @overload
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: Literal[True],
    ) -> list[Tensor]: ...
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """The maps inside the body, (B, C, H, W) each: after a block and the attention behind it.

        Args:
            x: (B, in_chans, H, W).
            indices: the blocks (of RCAN: groups), from 0, negative ones from the end; the last n for an int n; None for
                all. The maps come in the network's order, each once.
            norm: changes nothing: these networks end in no norm.
            stop_early: leave out what comes after the last of `indices`.
            output_fmt: `NCHW`, the only one.
            intermediates_only: return the maps only.

        Returns:
            `forward_features(x)`, or with `stop_early` the last map, and the list of maps; or that list alone.

        Raises:
            ConfigError: no such block, or another format.
        """
        if output_fmt != "NCHW":
            raise ConfigError("bad output_fmt", expected="NCHW", got=output_fmt, remedy="permute the maps yourself")
        wanted = self._block_numbers(indices)
        shallow = self.head(self.sub_mean(x))
        stop = max(wanted) if stop_early or intermediates_only else None
        last, maps = self.body.collect(shallow, wanted, stop=stop)
        if intermediates_only:
            return maps
        return (last if stop_early else shallow + self.body_conv(last)), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, *, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops in place what `forward_intermediates` with these indices needs not, so that no parameter goes unused.

        Args:
            indices: as for `forward_intermediates`.
            prune_norm: changes nothing: these networks end in no norm.
            prune_head: drop all that comes after the body, too; the network enlarges no longer then.

        Returns:
            The indices, counted from 0.

        Raises:
            ConfigError: no such block.
        """
        wanted = self._block_numbers(indices)
        self.body.shorten(max(wanted) + 1)
        if prune_head:
            self.body_conv, self.upsampler, self.tail, self.add_mean = (nn.Identity() for _ in range(4))
        return wanted

    def _block_numbers(self, indices: int | Sequence[int] | None) -> list[int]:
        """The blocks meant, in order, counted from 0."""
        count = len(self.body.blocks)
        try:
            if indices is None:
                asked = list(range(count))
            else:
                asked = [index(i) for i in (range(-indices, 0) if isinstance(indices, int) else indices)]
        except TypeError:
            asked = []
        if not asked or any(not -count <= number < count for number in asked):
            raise ConfigError(
                "bad indices", expected=f"blocks from 0 to {count - 1}, or how many of the last", got=repr(indices)
            )
        return sorted({number % count for number in asked})
