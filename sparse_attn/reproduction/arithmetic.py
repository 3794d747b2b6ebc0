"""Table 5: the arithmetic of attention, counted on the code that runs, beside the paper's.

The paper's figures come out of no count of the authors' released code. They are met by `accounting`, in which a chunk
attends to itself and ONE neighbour; that it counts a second embedding is a guess that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_attn.attention import create_attention
from sparse_attn.errors import ConfigError
from sparse_attn.ops import bucket_count, flop_formulas
from sparse_attn.reproduction.schema import build, build_all, read_yaml

ARITHMETIC = "table5"
CONVENTION = (
    "A multiplication and the addition after it are two FLOPs. Counted are convolutions (without their biases), both "
    "products of attention, padding to whole chunks included, and the product with the rotations; not counted are "
    "sorting, softmax, normalisation and the residual. `counted` is the code as it is by default: a chunk attends to "
    "both its neighbours (neighbors=2), as in the authors' released code."
)
ACCOUNTING = (
    "The published accounting is 2 L (9 C D 2 + C C) + r [2 L' 2k (D + C) + 2 L D m / 2] for NLSA (C = 64, D = C / 4, "
    "k = 144; L pixels, L' those of whole chunks, m buckets): own and ONE neighbouring chunk. It meets the paper's "
    "figures to their decimal; that it counts a second embedding is a guess. For NLA it is the two products only."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper's table.

    Args:
        name: for tables.
        paper: GFLOP.
        attention: a registered name; None is a 3x3 convolution.
        settings: of the attention.
    """

    name: str
    paper: float
    attention: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is counted.

    Args:
        title: what it is about.
        source: where the paper has it.
        paper_source: where the paper's figures were seen.
        channels: C.
        side: of the square map, pixels.
        rows: the table.
    """

    title: str
    source: str
    paper_source: str
    channels: float
    side: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Count:
    """A row with what was counted, FLOPs.

    Args:
        name: of the row.
        paper: GFLOP.
        flops: of the code as it is by default.
        one_neighbor: of the code with `neighbors=1`, where it has that setting.
        accounted: by the accounting that meets the paper's figure.
        why: how `flops` and the paper's figure differ.
    """

    name: str
    paper: float
    flops: int
    one_neighbor: int | None
    accounted: int
    why: str

    @property
    def multiply_adds(self) -> int:
        """Half of `flops`."""
        return self.flops // 2


def load_counts(path: Path) -> Counts:
    """Reads `table5.yaml`.

    Raises:
        ConfigError: it cannot be read, or a field has a bad value.
        UnknownNameError: an unknown field.
    """
    values = dict(read_yaml(path))
    values["rows"] = build_all(Row, values.get("rows"), f"{path.name}, entry of rows")
    counts = build(Counts, values, path.name)
    if not counts.rows or any(n < 1 or n != int(n) for n in (counts.channels, counts.side)):
        raise ConfigError(f"{path.name}: bad channels, side or rows", expected="whole numbers and some rows")
    return counts


def count(module: nn.Module, channels: int, side: int) -> int:
    """FLOPs of one forward pass on (1, C, side, side), by the counter and the formulas of `sparse_attn.summary`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    x = torch.rand((1, channels, side, side), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), counter:
        module.eval()(x)
    return int(counter.get_total_flops())


def accounting(*, channels: int, side: int, rounds: int, bucket_size: int = 144, reduction: int = 4) -> int:
    """FLOPs of NLSA as the paper seems to have counted them: own and one neighbouring chunk, two embeddings.

    2 L (9 C D 2 + C C) + r [2 L' 2k (D + C) + 2 L D m / 2], with L pixels, L' those in whole chunks, D = C / 4.
    """
    tokens, width = side * side, channels // reduction
    padded = -(-tokens // bucket_size) * bucket_size
    half = bucket_count(tokens, bucket_size) // 2
    constant = 2 * tokens * (9 * channels * width * 2 + channels * channels)
    products = 2 * padded * 2 * bucket_size * (width + channels)
    return constant + rounds * (products + 2 * tokens * width * half)


def count_table(counts: Counts) -> list[Count]:
    """Counts every row."""
    channels, side = int(counts.channels), int(counts.side)
    return [_count_row(row, channels, side) for row in counts.rows]


def _count_row(row: Row, channels: int, side: int) -> Count:
    if row.attention is None:
        flops = count(nn.Conv2d(channels, channels, 3, padding=1), channels, side)
        why = "nothing but the paper's rounding"
        return Count(name=row.name, paper=row.paper, flops=flops, one_neighbor=None, accounted=flops, why=why)
    block = create_attention(row.attention, channels, **row.settings)
    flops = count(block, channels, side)
    convolutions = sum(count(conv, channels, side) for conv in block.modules() if isinstance(conv, nn.Conv2d))
    if "neighbors" not in block.settings:
        why = f"the paper leaves out the convolutions of the block here, though not in NLSA: +{_giga(convolutions)}"
        products = flops - convolutions
        return Count(name=row.name, paper=row.paper, flops=flops, one_neighbor=None, accounted=products, why=why)
    one = count(create_attention(row.attention, channels, **{**row.settings, "neighbors": 1}), channels, side)
    accounted = accounting(channels=channels, side=side, rounds=int(row.settings["rounds"]))
    why = (
        f"a chunk attends to both neighbours, not to one: +{_giga(flops - one)}; one embedding serves queries and "
        f"keys, not two: −{_giga(accounted - one)}; the rest, {_giga(accounted - row.paper * 1e9)}, is the paper's "
        "rounding"
    )
    return Count(name=row.name, paper=row.paper, flops=flops, one_neighbor=one, accounted=accounted, why=why)


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.3f}".replace("-", "−")


def counts_rows(rows: list[Count]) -> list[list[str]]:
    """Header and rows, GFLOP."""
    header = ["GFLOP", "paper", "counted", "as multiply-adds", "with neighbors=1", "published accounting"]
    return [
        header,
        *(
            [
                row.name,
                f"{row.paper:.1f}",
                f"{row.flops / 1e9:.3f}",
                f"{row.multiply_adds / 1e9:.3f}",
                "–" if row.one_neighbor is None else f"{row.one_neighbor / 1e9:.3f}",
                f"{row.accounted / 1e9:.3f}",
            ]
            for row in rows
        ),
    ]
