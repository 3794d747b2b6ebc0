"""The documentation's tables come from the records."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from sparse_attn.benchmark.bars import Bar
from sparse_attn.benchmark.record import Row
from tests.benchmark.support import SMALL, record, row
from tests.conftest import CHECKOUT


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "docs"))
    return importlib.import_module("bench_tables")


def test_without_records_the_page_says_how_to_make_them(tables: ModuleType, tmp_path: Path) -> None:
    assert tables.bench_section(tmp_path / "nowhere") == tables.NOTHING_YET


def test_a_record_becomes_tables_and_plots(tables: ModuleType, tmp_path: Path) -> None:
    rows = [row(SMALL, "authors", 4e-3), row(SMALL, "blocked", 1e-3), Row(SMALL, "triton", problem="no GPU")]
    bar = Bar(case=SMALL, contender="blocked", against=("authors",), run="forward", wanted=2.0)
    made = replace(record(rows, suite="bars"), bars=[bar.judge(rows)], command="sparse-attn bench --suite bars")
    (tmp_path / "cpu-bars.json").write_text(made.to_json())
    (tmp_path / "cpu-bars-bars.svg").write_text("<svg/>")
    lines = tables.bench_section(tmp_path, tmp_path).splitlines()
    assert lines[0] == "## Beside the bars, CPU" and "sparse-attn bench --suite bars" in lines
    assert "| 8 ch, 11x11, batch 2, r=2 | blocked against authors, forward | at least 2x | 4x | met, +100% |" in lines
    assert "| `blocked` | 1 | 2 | 1.0 | 2.0 | 25% | 2e-06 |" in lines
    assert "- triton: left out: no GPU" in lines
    assert "![Each ratio as a part of its bar](assets/benchmarks/cpu-bars-bars.svg)" in lines
    assert not any("cpu-bars-memory.svg" in line for line in lines)
