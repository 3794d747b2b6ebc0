"""The gate every exported file passes: run again at five sizes, it must give what the model gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_attn.errors import ConfigError
from sparse_attn.exporting.formats import Run

# (B, H, W): less than a bucket, three of them at most, whole buckets of 144, a batch, and primes throughout.
SIZES = ((1, 7, 11), (1, 17, 19), (1, 24, 36), (2, 31, 37), (1, 53, 47))
TOLERANCE = 1e-4
# Of the root mean square: in half precision single pixels may join another group.
HALF_TOLERANCE = 5e-3
_INPUTS = 3


@dataclass(frozen=True)
class Comparison:
    """What running the file gave.

    Args:
        sizes: (B, C, H, W) of the inputs.
        difference: the largest from the model's output, as a fraction of `white`.
        ties: how many inputs were passed over because a near tie was decided otherwise.
    """

    sizes: tuple[tuple[int, int, int, int], ...]
    difference: float
    ties: int


def compare(model: nn.Module, run: Run, *, channels: int, white: float, half: bool, tolerance: float) -> Comparison:
    """Runs a file and the model it was made from on the same random inputs.

    Two correct programs round differently. Once in a great while that sends a token to another group, because two
    of its hash projections, or two scores, are equal to the last digits, and the output then differs visibly. So each
    size has three inputs, and passes with the first one that agrees: a wrong graph would be wrong on all.

    Args:
        model: the model, in float32 and eval mode.
        run: the file.
        channels: C of the input.
        white: the largest value of the input; differences are fractions of it.
        half: compare root mean squares, not largest differences.
        tolerance: what is allowed.

    Raises:
        ConfigError: no input of a size agrees.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    worst, ties = 0.0, 0
    sizes = tuple((batch, channels, height, width) for batch, height, width in SIZES)
    for size in sizes:
        differences: list[float] = []
        for seed in range(_INPUTS):
            x = torch.rand(size, generator=torch.Generator().manual_seed(seed)).to(device) * white
            differences.append(_difference(model, run, x, half=half) / white)
            if differences[-1] <= tolerance:
                break
        else:
            raise ConfigError(
                "the exported file does not compute what the model does, so it is not kept",
                expected=f"outputs that differ by {tolerance:g} at most",
                got=f"{min(differences):.2g} for an input of size {'x'.join(map(str, size))}",
                remedy="near ties do this to untrained or top-k networks, see the limits on the export page; "
                "else please report it; verify=False (--no-verify) keeps the file",
            )
        ties += len(differences) - 1
        worst = max(worst, differences[-1])
    return Comparison(sizes, worst, ties)


def _difference(model: nn.Module, run: Run, x: Tensor, *, half: bool) -> float:
    with torch.inference_mode():
        expected = model(x).cpu()
        difference = (run(x).cpu() - expected).double()
    # A NaN is a difference, and no comparison with a tolerance would say so.
    worst = difference.square().mean().sqrt() if half else difference.abs().max()
    return float(worst.nan_to_num(nan=torch.inf))
