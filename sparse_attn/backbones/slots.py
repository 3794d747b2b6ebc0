"""A row of blocks with attention slots between them: what every backbone's body is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparse_attn.attention import attentions, create_attention
from sparse_attn.errors import ConfigError

AttentionSpec = str | type[nn.Module] | Callable[..., nn.Module] | None


class SlottedBody(nn.Module):
    """Blocks in a row, with an attention block at chosen positions.

    Position p is after p blocks: 0 is before the first block, `len(blocks)` after the last. An attention that has a
    `seed` gets its position as seed unless told otherwise, so that no two hash with the same rotations.

    Args:
        blocks: modules that keep (B, C, H, W).
        channels: C.
        attention: a registered name, or anything called as `attention(channels, **attention_kwargs)` that returns a
            module; None leaves every slot empty.
        attention_at: the positions.
        attention_kwargs: passed to each attention.
        defaults: passed as well, where the attention has such an argument and `attention_kwargs` does not name it.

    Raises:
        ConfigError: a position that is out of range or named twice.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        channels: int,
        *,
        attention: AttentionSpec = None,
        attention_at: Sequence[int] = (),
        attention_kwargs: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleDict()
        whole = isinstance(attention_at, Sequence) and all(type(p) is int for p in attention_at)
        positions = sorted(attention_at) if whole else []
        if not whole or len(set(positions)) != len(positions) or any(not 0 <= p <= len(self.blocks) for p in positions):
            raise ConfigError(
                "bad attention_at",
                expected=f"distinct positions from 0 to {len(self.blocks)}",
                got=repr(attention_at),
                remedy="position p puts an attention after p blocks",
            )
        if attention is None:
            return
        for position in positions:
            offered = {"seed": position, **(defaults or {})}
            make = {**{n: v for n, v in offered.items() if _takes(attention, n)}, **(attention_kwargs or {})}
            module = (
                create_attention(attention, channels, **make)
                if isinstance(attention, str)
                else attention(channels, **make)
            )
            self.attention[str(position)] = module

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.collect(x)[0]

    def collect(
        self, x: Tensor, wanted: Collection[int] = (), *, stop: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(B, C, H, W) -> the same shape, and the maps after the blocks in `wanted`, each with the attention behind it.

        Args:
            x: (B, C, H, W).
            wanted: numbers of blocks, from 0.
            stop: the number of the block after which the rest is left out.
        """
        slots = dict(self.attention.items())
        maps = []
        for position in range(len(self.blocks) + 1):
            if str(position) in slots:
                x = slots[str(position)](x)
            if position - 1 in wanted:
                maps.append(x)
            if stop is not None and position > stop:
                break
            if position < len(self.blocks):
                x = self._block(self.blocks[position], x)
        return x, maps

    def outlets(self) -> list[str]:
        """For each block, the name of the module that `collect` takes its map from."""
        return [
            f"attention.{number + 1}" if str(number + 1) in self.attention else f"blocks.{number}"
            for number in range(len(self.blocks))
        ]

    def shorten(self, count: int) -> None:
        """Drops every block but the first `count`, and the attentions after them."""
        self.blocks = self.blocks[:count]
        for position in [position for position in self.attention if int(position) > count]:
            del self.attention[position]

    def set_grad_checkpointing(self, *, enable: bool = True) -> None:
        """In training, blocks keep their input only and are computed again in the backward pass.

        Attentions are not: they keep little, and those that draw fresh groups would draw others the second time.
        """
        self.grad_checkpointing = enable

    def _block(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def _takes(attention: str | Callable[..., nn.Module], name: str) -> bool:
    """Whether an attention, by name or not, has an argument of this name."""
    builder = attentions.get(attention) if isinstance(attention, str) else attention
    return name in inspect.signature(builder).parameters
