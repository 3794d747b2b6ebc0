"""Bars are judged by medians, and only by what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparse_attn.benchmark.bars import CPU_BARS, CUDA_BARS, Bar, bars_of, entries_of, toys
from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.contenders import CONTENDERS
from tests.benchmark.support import SMALL, row

BAR = Bar(case=SMALL, contender="blocked", against=("authors",), run="forward", wanted=3.0)


@pytest.mark.parametrize(("seconds", "met"), [(0.375, True), (0.5, False)])
def test_a_ratio_is_met_or_missed(seconds: float, met: bool) -> None:
    verdict = BAR.judge([row(SMALL, "authors", 1.2), row(SMALL, "blocked", seconds)])
    assert verdict.value == pytest.approx(1.2 / seconds) and verdict.met is met


def test_medians_of_the_right_pass_and_case_count() -> None:
    own = row(SMALL, "blocked", 1.0)
    own.seconds["forward"] = [0.1, 9.0, 0.2, 0.1, 0.1]
    elsewhere = row(replace(SMALL, side=29), "blocked", 7.0)
    both = replace(BAR, run="both")
    rows = [row(SMALL, "authors", 1.0), own, elsewhere]
    assert BAR.judge(rows).value == pytest.approx(10.0)
    assert both.judge(rows).value == pytest.approx(1.0)


def test_the_baseline_is_the_best_of_several() -> None:
    bar = replace(BAR, against=("dense naive", "dense sdpa", "nla"))
    rows = [row(SMALL, "dense naive", 6.0), row(SMALL, "dense sdpa", 4.0), row(SMALL, "blocked", 1.0)]
    assert bar.judge(rows).value == pytest.approx(4.0)


def test_memory_has_bars_of_its_own() -> None:
    bar = replace(BAR, what="memory", run="both", wanted=8.0)
    rows = [row(SMALL, "authors", 1.0, memory=900.0), row(SMALL, "blocked", 5.0, memory=100.0)]
    assert bar.judge(rows).value == pytest.approx(9.0) and bar.judge(rows).met


@pytest.mark.parametrize(("seconds", "met"), [(0.3e-3, True), (0.5e-3, False)])
def test_an_absolute_bar_is_an_upper_bound(seconds: float, met: bool) -> None:
    bar = replace(BAR, against=(), wanted=0.4e-3)
    assert bar.judge([row(SMALL, "blocked", seconds)]).met is met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    left_out = row(SMALL, "blocked", 1.0)
    left_out.seconds = {}
    for rows in (
        [],
        [row(SMALL, "authors", 1.0)],
        [row(SMALL, "blocked", 1.0)],
        [row(SMALL, "authors", 1.0), left_out],
    ):
        assert (BAR.judge(rows).value, BAR.judge(rows).met) == (None, None)


def test_toys_are_measured_and_not_judged() -> None:
    toy = replace(BAR, case=SMALL.toy())
    verdict = toy.judge([row(toy.case, "authors", 9.0), row(toy.case, "blocked", 1.0)])
    assert verdict.value == pytest.approx(9.0) and verdict.met is None


def test_the_issue_s_bars_are_all_there() -> None:
    at = {
        (b.case.channels, b.case.side, b.case.batch, b.run, b.what): b.wanted
        for b in CPU_BARS
        if b.against == ("authors",)
    }
    assert [at[64, 100, 1, run, "seconds"] for run in ("forward", "both")] == [3.5, 3.3]
    assert [at[256, 48, 4, run, "seconds"] for run in ("forward", "both")] == [2.7, 2.8]
    assert [at[256, 100, 1, run, "seconds"] for run in ("forward", "both")] == [2.8, 2.4]
    assert [at[256, 200, 1, run, "seconds"] for run in ("forward", "both")] == [5.0, 3.0]
    memory = {key[:3]: wanted for key, wanted in at.items() if key[4] == "memory"}
    assert memory == {(64, 100, 1): 10.0, (256, 48, 4): 6.0, (256, 100, 1): 7.0, (256, 200, 1): 8.0}
    assert bars_of("cuda") == CUDA_BARS and bars_of("cpu") == CPU_BARS


def test_everyone_a_bar_needs_is_entered_once() -> None:
    entries = entries_of(CPU_BARS)
    assert len({case for case, _ in entries}) == len(entries)
    for bar in CPU_BARS:
        names = dict(entries)[bar.case]
        assert {bar.contender, *bar.against} <= set(names) <= set(CONTENDERS)
        assert len(set(names)) == len(names)


def test_toys_run_every_kind_of_bar() -> None:
    found = entries_of(toys())
    assert all(case == case.toy() for case, _ in found)
    assert {name for _, names in found for name in names} == {
        name for bar in (*CPU_BARS, *CUDA_BARS) for name in (bar.contender, *bar.against)
    }
    assert {case.passes for case, _ in found} == {("forward", "both"), ("forward",), ("step",)}
    assert isinstance(found[0][0], Case)
