"""What a model costs: parameters, arithmetic, and a table of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_attn.attention import draw_counts, restore_draws
from sparse_attn.errors import ConfigError
from sparse_attn.ops import flop_formulas


@dataclass(frozen=True)
class Summary:
    """What `summary` measured; `str()` of it is the whole report.

    Args:
        size: (B, C, H, W) of the input.
        parameters: numbers that an optimizer may change.
        buffers: numbers that travel in the state dict and are not parameters.
        flops: of one forward pass, convolutions and matrix products; a multiplication and the addition after it are
            two. Some papers say FLOPs and mean `multiply_adds`.
        table: torchinfo's table. Its own count of multiply-adds leaves out the matrix products of attention.
    """

    size: tuple[int, ...]
    parameters: int
    buffers: int
    flops: int
    table: str

    @property
    def multiply_adds(self) -> int:
        """Half of `flops`."""
        return self.flops // 2

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.size))
        return (
            f"{self.table}\n"
            f"input          {shape}\n"
            f"parameters     {self.parameters:,} (and {self.buffers:,} in buffers)\n"
            f"multiply-adds  {self.multiply_adds:,}\n"
            f"FLOPs          {self.flops:,} (a multiply-add counts as two; attention included)"
        )


def summary(model: nn.Module, size: Sequence[int] = (1, 3, 48, 48), *, depth: int = 3) -> Summary:
    """Runs `model`, in eval mode and without gradients, and counts.

    Args:
        model: any module from (B, C, H, W); its modes and the global random state are left as they are.
        size: (B, C, H, W) of the input.
        depth: how many levels of modules the table shows.

    Raises:
        ConfigError: `size` is not four positive integers, or the model is on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    if len(size) != 4 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ConfigError("bad size", expected="four positive integers: B, C, H, W", got=tuple(size))
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if like.is_meta:
        raise ConfigError("the model is on the meta device", remedy="build it on a real one")
    x = torch.rand(tuple(size), generator=torch.Generator().manual_seed(0)).to(like)
    before = {module: module.training for module in model.modules()}
    draws = draw_counts(model)
    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    try:
        table = _table(model, x, depth)
        with torch.no_grad(), counter:
            model.eval()(x)
    finally:
        restore_draws(model, draws)
        for module, training in before.items():
            module.training = training
    parameters = sum(p.numel() for p in model.parameters())
    return Summary(
        size=tuple(size),
        parameters=parameters,
        buffers=sum(t.numel() for t in model.state_dict().values()) - parameters,
        flops=counter.get_total_flops(),
        table=table,
    )


def _table(model: nn.Module, x: Tensor, depth: int) -> str:
    import torchinfo
    from torchinfo.torchinfo import clear_cached_forward_pass

    try:
        return str(torchinfo.summary(model, input_data=x, device=x.device, depth=depth, verbose=0))
    except RuntimeError as error:
        # torchinfo cannot size what a module returns if it is no tensor; the table then goes without sizes.
        if not isinstance(error.__cause__, TypeError):
            raise
        return str(torchinfo.summary(model, depth=depth, verbose=0))
    finally:
        # Its cache would keep the model alive.
        clear_cached_forward_pass()
