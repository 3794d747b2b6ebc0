"""Which tile sizes the kernels are tuned over: few, and only such that ptxas spills nothing and shared memory suffices.

What holds for which chip and width was found by compiling; tests/ops/test_triton_compile.py compiles it all again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-untyped,unused-ignore]

Widths = tuple[int, int]
ANY: Widths = (128, 512)


class Tile(NamedTuple):
    """Rows and columns of a block of scores, warps and stages, and the widest D and C for which it is offered.

    `hopper` are those on chips of compute capability 9.0, `others` those elsewhere.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    hopper: Widths = ANY
    others: Widths = ANY


# By kernel and by how products are computed: 16-bit values, float32 by tensor cores, float32 exactly.
TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "forward": {
        "half": (Tile(128, 64, 8, 4, others=(128, 128)), Tile(64, 64, 8, 4), Tile(32, 32, 4, 4)),
        "tf32": (Tile(64, 32, 8, 4), Tile(32, 32, 4, 4)),
        "ieee": (Tile(32, 32, 4, 3, others=(128, 128)), Tile(16, 32, 4, 3)),
    },
    "score_grad": {
        "half": (
            Tile(128, 64, 8, 4, hopper=(64, 256), others=(64, 256)),
            Tile(64, 64, 8, 4, hopper=(64, 256), others=(128, 256)),
            Tile(64, 32, 4, 4),
        ),
        "tf32": (Tile(64, 32, 8, 4, hopper=(64, 256), others=(128, 256)), Tile(32, 16, 4, 3)),
        "ieee": (
            Tile(32, 32, 8, 3, hopper=(64, 512), others=(32, 128)),
            Tile(32, 16, 4, 3, hopper=(32, 128)),
            Tile(16, 32, 4, 3, others=(128, 256)),
        ),
    },
    "value_grad": {
        "half": (Tile(128, 64, 8, 4, hopper=(128, 128), others=(128, 128)), Tile(64, 64, 8, 4), Tile(64, 32, 8, 4)),
        "tf32": (Tile(64, 32, 8, 4), Tile(32, 32, 4, 4)),
        "ieee": (Tile(32, 32, 8, 3), Tile(16, 32, 4, 3)),
    },
}
# The interpreter needs no tuning; few steps of a loop are what is fast there.
_INTERPRETED = Tile(32, 32, 4, 1)


def tiles(kernel: str, products: str, capability: tuple[int, int], widths: Widths) -> list[Tile]:
    """The tiles offered for queries and values of these widths on a chip of this capability."""
    offered = []
    for tile in TILES[kernel][products]:
        widest = tile.hopper if capability == (9, 0) else tile.others
        if widths[0] <= widest[0] and widths[1] <= widest[1]:
            offered.append(tile)
    return offered


def _config(tile: Tile) -> Any:
    return triton.Config({"BLOCK_M": tile.rows, "BLOCK_N": tile.columns}, num_warps=tile.warps, num_stages=tile.stages)


def tuned(kernel: str, *keys: str) -> Callable[[Any], Any]:
    """Decorates a kernel: tuned once for each `case`, precision and pair of widths, and what else is in `keys`."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return triton.autotune([_config(_INTERPRETED)], key=[])
    configs = {tile: _config(tile) for offered in TILES[kernel].values() for tile in offered}

    def offered_here(_: list[Any], tensors: dict[str, Any], **options: Any) -> list[Any]:
        # Tensors are the kernels' positional arguments, the first of them is of the products' dtype.
        first = next(iter(tensors.values()))
        products = options["PRECISION"] if first.dtype == torch.float32 else "half"
        capability = torch.cuda.get_device_capability(first.device)
        return [configs[tile] for tile in tiles(kernel, products, capability, (options["D"], options["C"]))]

    return triton.autotune(
        list(configs.values()),
        key=["case", "PRECISION", "D", "C", *keys],
        prune_configs_by={"early_config_prune": offered_here},
    )
