"""`bench` measures, prints, and writes what it says it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_attn.benchmark.record import Record
from sparse_attn.cli import bench
from tests.benchmark.support import Here, row
from tests.cli.conftest import Command, files

TINY = ["bench", "--channels", 8, "--sizes", "7", "--bucket-size", 9, "--rounds", 1, "--runs", 1, "--threads", 1]


@pytest.fixture
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_attn.benchmark.rates._CPU_SIDES", (32,))
    monkeypatch.setattr("sparse_attn.benchmark.turns.MEMORY_RUNS", 1)
    measure = bench.measure
    monkeypatch.setattr(bench, "measure", lambda *given, **named: measure(*given, **named, start=Here))


def test_in_processes(command: Command, tmp_path: Path) -> None:
    outcome = command(*TINY, "--suite", "size", "--contenders", "blocked,dense s*", "--json", "it.json")
    assert outcome.code == 0
    assert outcome.errors == ["the machine's rates", "8 ch, 7x7, r=1: blocked, dense sdpa"]
    lines = outcome.out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["8 ch, 7x7, r=1", "contender", "blocked", "dense sdpa"]
    record = Record.from_json((tmp_path / "it.json").read_text())
    assert [r.contender for r in record.rows] == ["blocked", "dense sdpa"]
    assert record.setup.threads == 1 and record.setup.runs == 1
    assert record.command is not None and "--suite size --channels 8 --sizes 7" in record.command
    assert files(tmp_path) == {"it.json"}


@pytest.mark.usefixtures("_no_processes")
def test_other_attentions_and_plots(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "plots").mkdir()
    words = [*TINY, "--suite", "size", "--contenders", "eager,local*,random*", "--plots", "plots"]
    outcome = command(*words, "--sizes", "7,11", "--attentions", "local*")
    assert outcome.code == 0
    assert "local_window" in outcome.out and "random_bucket" not in outcome.out
    assert files(tmp_path / "plots") == {"cpu-size-forward.svg", "cpu-size-both.svg", "cpu-size-memory.svg"}
    assert "local_window" in (tmp_path / "plots" / "cpu-size-both.svg").read_text()


def test_a_wrong_result_is_an_exit_code(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(setup, entries, bars, **_) -> Record:
        rows = [row(case, name, 1.0) for case, names in entries for name in names]
        rows[0].problem, rows[0].failed = "its result is wrong", True
        rates = {"float32": 1e11, "bf16": 1e11, "copy": 1e10}
        return Record(setup, {"cpu": "", "gpu": None, "torch": "", "allocator": "default"}, rates, rows=rows)

    monkeypatch.setattr(bench, "measure", measured)
    outcome = command("bench", "--suite", "quick")
    assert outcome.code == 1 and "FAILED: its result is wrong" in outcome.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "sizes"], "error: unknown suite 'sizes'; did you mean size"),
        (
            ["--suite", "bars", "--sizes", "48"],
            "error: suite 'bars' has its own cases, got sizes; use a suite of size, ",
        ),
        (["--suite", "bars", "--bucket-size", 9], "error: suite 'bars' has its own cases, got bucket_size; use "),
        (["--suite", "size", "--sizes", "48;64"], "error: bad sizes, expected whole numbers, as 48,100, got '48;64'"),
        (["--suite", "size", "--sizes", "0"], "error: bad sizes, expected numbers of at least 1, got (0,)"),
        (["--suite", "size", "--bucket-size", "-1"], "error: bad bucket_size, expected numbers of at least 1, got -1"),
        (["--contenders", "nobody"], "error: unknown contender of this suite 'nobody'; known: "),
        (["--device", "meta"], "error: bad device, expected cpu or cuda, whose time can be told, got meta"),
        (["--device", "tpu"], "error: cannot use device 'tpu'"),
        (["--json", "no/where.json"], "error: cannot write to no: no such folder; create it first"),
        (["--plots", "nowhere"], "error: cannot write to nowhere: no such folder; create it first"),
    ],
)
def test_bad_requests_are_one_line(command: Command, tmp_path: Path, words: list[object], said: str) -> None:
    outcome = command("bench", *words)
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith(said)
    assert files(tmp_path) == set()
