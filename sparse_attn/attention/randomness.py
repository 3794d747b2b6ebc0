"""When random groups are drawn anew: the settings that NLSA and random buckets share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention.settings import any_int, one_of
from sparse_attn.errors import ConfigError

RANDOM_SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "seed": any_int("seed"),
    "rehash": one_of("rehash", "train", "always", "never"),
}


def _in_backward() -> bool:
    """Whether autograd is running: a module called then is being recomputed, by `torch.utils.checkpoint`."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class DrawCounter(nn.Module):
    """Counts the fresh draws of one attention; draw 0 is the fixed one.

    The count is a tensor, so a compiled graph need not be compiled again for each draw, and it is not part of the
    state dict: weights do not depend on it.
    """

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def take(self, rehash: str, device: torch.device) -> Tensor | int:
        """The number of the draw to use now: fresh in training with `train`, on each call with `always`, else 0.

        Args:
            rehash: as of the attention.
            device: what is attended to is there.

        Raises:
            ConfigError: a fresh draw in a recomputation: its gradients would be those of another function.
        """
        if rehash == "always" or (rehash == "train" and self.training):
            if _in_backward():
                raise ConfigError(
                    "a forward pass within a backward pass would draw other groups than the one it repeats",
                    got=f"rehash={rehash!r} under activation checkpointing",
                    remedy="configure_attention(model, rehash='never')",
                )
            if self.count.is_meta and device.type != "meta":
                # Weights were assigned to a model that was built without memory.
                self.count = torch.zeros((), dtype=torch.int64, device=device)
            self.count += 1
            return self.count.clone()
        return 0


def draw_counts(model: nn.Module) -> list[int]:
    """How many fresh draws each attention of a model has made, in module order: the state of its randomness."""
    return [int(m.count) for m in model.modules() if isinstance(m, DrawCounter)]


def restore_draws(model: nn.Module, counts: list[int]) -> None:
    """Sets what `draw_counts` returned, so that a resumed run draws what the uninterrupted one would have."""
    counters = [m for m in model.modules() if isinstance(m, DrawCounter)]
    for counter, count in zip(counters, counts, strict=True):
        counter.count.fill_(count)
