"""The record survives JSON; the table, the exponents and the plots say what is in it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from sparse_attn.benchmark.bars import Bar
from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.drawing import plots, varied
from sparse_attn.benchmark.record import Record, Row, Setup, describe_machine
from sparse_attn.benchmark.table import exponents, report
from sparse_attn.errors import ConfigError, DataError
from tests.benchmark.support import SMALL, TRAINING, record, row


def sizes() -> Record:
    """Linear, quadratic, and one that is left out at the largest size."""
    rows = []
    for side in (10, 20, 40):
        case = replace(SMALL, side=side)
        rows += [row(case, "blocked", 1e-6 * side**2), row(case, "dense naive", 1e-8 * side**4)]
    rows[-1] = Row(rows[-1].case, "dense naive", problem="its scores would take 102 GiB, 20 are free")
    return record(rows)


def test_json_and_back() -> None:
    made = sizes()
    made.bars = [Bar(case=SMALL, contender="a", against=("b",), run="forward", wanted=2.0).judge([])]
    made.rows.append(Row(TRAINING, "training auto bf16", seconds={"step": [0.5]}))
    assert Record.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["rows"][0]["seconds"]["forward"] == made.rows[0].seconds["forward"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', '{"rows": [{}], "bars": []}'])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="not a record of a benchmark"):
        Record.from_json(text)


def test_machine_tells_what_changes_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert describe_machine("cpu")["allocator"] == "default"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert describe_machine("cpu")["allocator"] == {"MALLOC_ARENA_MAX": "1"}


def test_report_has_medians_reasons_and_failures() -> None:
    made = sizes()
    made.rows[0].seconds["forward"] = [1.0, 0.002, 0.002]
    made.rows.append(Row(SMALL, "eager", problem="its result is wrong", failed=True, errors={"output": 0.5}))
    lines = report(made).splitlines()
    assert lines[0].startswith("a processor, torch 9.9, 1 threads, allocator: default; matmul 100 GFLOP/s in float32")
    header = lines.index("8 ch, 10x10, batch 2, r=2") + 1
    assert lines[header].split("  ")[0] == "contender" and "step ms" not in lines[header]
    assert lines[header + 1].split() == ["blocked", "2", "0.2", "1.0", "2.0", "25%", "2e-06"]
    assert "dense naive: left out: its scores would take 102 GiB, 20 are free" in lines
    assert "eager: FAILED: its result is wrong (output 5.0e-01)" in lines


def test_report_says_by_how_much_a_bar_is_met() -> None:
    made = sizes()
    bar = Bar(case=made.rows[0].case, contender="blocked", against=("dense naive",), run="forward", wanted=2.0)
    limit = replace(bar, against=(), wanted=1e-3)
    made.bars = [b.judge(made.rows) for b in (bar, replace(bar, wanted=0.5), limit, replace(bar, contender="nobody"))]
    shown = [line.split("  ")[-1].strip() for line in report(made).splitlines()[-4:]]
    assert shown == ["MISSED, -50%", "met, +100%", "met, -90%", "not measured"]


def test_steps_per_second() -> None:
    text = report(record([Row(TRAINING, "training auto bf16", seconds={"step": [0.5, 0.25, 0.25]})]))
    assert "training auto bf16: 4 steps a second" in text


def test_exponents_need_three_sizes_of_one_kind() -> None:
    found = exponents(sizes())
    assert found.keys() == {("blocked", "forward"), ("blocked", "both")}
    assert found["blocked", "forward"] == pytest.approx(1.0)
    assert "blocked  forward  1.00  met, -9%" in report(sizes()).splitlines()
    mixed = record([row(Case(channels=c, side=s), "blocked", 1.0) for c, s in ((8, 10), (16, 20), (32, 40))])
    assert exponents(mixed) == {}


def test_plots_of_what_varies() -> None:
    pytest.importorskip("matplotlib")
    made = sizes()
    assert varied(made) == "side"
    drawn = plots(made)
    assert set(drawn) == {"cpu-size-forward.svg", "cpu-size-both.svg", "cpu-size-memory.svg"}
    for svg in drawn.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "blocked" in svg and "dense naive" in svg and "8 channels, r=2, batch 2" in svg
    assert plots(made) == drawn


def test_plot_of_ratios() -> None:
    pytest.importorskip("matplotlib")
    made = record(sizes().rows[:2])
    bar = Bar(case=made.rows[0].case, contender="blocked", against=("dense naive",), run="forward", wanted=2.0)
    made.bars = [bar.judge(made.rows)]
    drawn = plots(replace(made, setup=replace(made.setup, suite="bars")))
    assert set(drawn) == {"cpu-bars-bars.svg"}
    assert "1x of 2x" in drawn["cpu-bars-bars.svg"]


def test_without_matplotlib_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="plots need matplotlib; pip install"):
        plots(sizes())


def test_setup_knows_the_kind_of_device() -> None:
    assert Setup(suite="size", device="cuda:1", threads=1).kind == "cuda"
