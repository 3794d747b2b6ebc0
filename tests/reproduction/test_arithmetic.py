"""Table 5: what is counted, what the paper has, and that the difference is explained to the last operation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from torch import nn

from sparse_attn.attention import create_attention
from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.reproduction import ARITHMETIC, count_table, counts_chart, load_counts
from sparse_attn.reproduction.arithmetic import Count, accounting, count, counts_rows
from sparse_attn.reproduction.plan import find_ablation
from sparse_attn.summary import summary


@pytest.fixture(scope="module")
def table() -> dict[str, Count]:
    return {row.name: row for row in count_table(load_counts(find_ablation(ARITHMETIC)))}


@pytest.mark.parametrize(
    ("name", "flops", "one_neighbor", "accounted"),
    [
        # 2 L L (D + C) and the convolutions, which the paper leaves out.
        ("NLA", 16_000_000_000 + 266_240_000, None, 16_000_000_000),
        ("conv 3x3", 737_280_000, None, 737_280_000),
        ("NLSA r=1", 974_169_600, 741_926_400, 926_246_400),
        ("NLSA r=2", 1_682_099_200, 1_217_612_800, 1_401_932_800),
        ("NLSA r=4", 3_097_958_400, 2_168_985_600, 2_353_305_600),
        ("NLSA r=8", 5_929_676_800, 4_071_731_200, 4_256_051_200),
    ],
)
def test_counts(table: dict[str, Count], name: str, flops: int, one_neighbor: int | None, accounted: int) -> None:
    row = table[name]
    assert (row.flops, row.one_neighbor, row.accounted) == (flops, one_neighbor, accounted)
    assert row.multiply_adds * 2 == flops


@pytest.mark.parametrize("name", ["NLA", "conv 3x3", "NLSA r=1", "NLSA r=2", "NLSA r=4", "NLSA r=8"])
def test_the_accounting_meets_the_paper_to_its_decimal(table: dict[str, Count], name: str) -> None:
    assert abs(table[name].accounted / 1e9 - table[name].paper) < 0.05


@pytest.mark.parametrize("rounds", [1, 2, 4, 8])
def test_differences_are_explained_whole(table: dict[str, Count], rounds: int) -> None:
    row = table[f"NLSA r={rounds}"]
    assert row.one_neighbor is not None
    third_chunk = rounds * 2 * 10_080 * 144 * (16 + 64)
    second_embedding = 2 * 10_000 * 9 * 64 * 16
    assert row.flops - row.one_neighbor == third_chunk
    assert row.accounted - row.one_neighbor == second_embedding
    assert f"+{third_chunk / 1e9:.3f}" in row.why
    assert f"−{second_embedding / 1e9:.3f}" in row.why


@pytest.mark.parametrize("side", [29, 37])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_accounting_is_what_two_embeddings_and_one_neighbour_cost(side: int, rounds: int) -> None:
    block = create_attention("nlsa", 8, rounds=rounds, neighbors=1, shared_qk=False)
    assert accounting(channels=8, side=side, rounds=rounds) == count(block, 8, side)


def test_counted_as_summary_counts() -> None:
    for module in (create_attention("nlsa", 8, rounds=3), nn.Conv2d(8, 8, 3, padding=1)):
        assert count(module, 8, 29) == summary(module, (1, 8, 29, 29)).flops


def test_rows_and_chart(table: dict[str, Count]) -> None:
    rows = counts_rows(list(table.values()))
    assert rows[1] == ["NLA", "16.0", "16.266", "8.133", "–", "16.000"]
    assert rows[3] == ["NLSA r=1", "0.9", "0.974", "0.487", "0.742", "0.926"]
    svg = counts_chart(list(table.values()))
    assert svg.startswith("<?xml")
    assert all(name in svg for name in table)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rows": [{"name": "a", "papper": 1.0}]},
            UnknownNameError,
            "unknown field of .* 'papper'; did you mean paper",
        ),
        ({"rows": []}, ConfigError, "bad channels, side or rows"),
        ({"side": 0.5}, ConfigError, "bad channels, side or rows"),
    ],
)
def test_bad_files(tmp_path: Path, change: dict[str, object], error: type[Exception], message: str) -> None:
    good = yaml.safe_load(find_ablation(ARITHMETIC).read_text(encoding="utf-8"))
    (tmp_path / "table5.yaml").write_text(yaml.safe_dump({**good, **change}))
    with pytest.raises(error, match=message):
        load_counts(tmp_path / "table5.yaml")
