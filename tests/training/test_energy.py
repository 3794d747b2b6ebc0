"""Energy: readings of a board that is not there, and what is assumed without one."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from sparse_attn.training import energy
from sparse_attn.training.energy import ask_board, estimate, watch

BOARD = """#!/bin/sh
echo "$@" >> "{folder}/asked"
echo "{answer}"
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an `nvidia-smi` that gives an answer into the path."""

    def make(answer: str) -> Path:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(BOARD.format(folder=tmp_path, answer=answer))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "asked"

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


@pytest.fixture
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)


def test_a_board_is_asked_for_the_device_that_is_used(board, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = board("512.34, 700.00")
    assert ask_board() == {"watts": 512.34, "limit": 700.0}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    ask_board()
    query = "--query-gpu=power.draw,power.limit --format=csv,noheader,nounits"
    assert asked.read_text().splitlines() == [f"-i 0 {query}", f"-i 3 {query}"]


def test_a_board_that_cannot_tell_is_no_board(board) -> None:
    board("[N/A], [N/A]")
    assert ask_board() is None
    board("100.0, [N/A]")
    assert ask_board() == {"watts": 100.0, "limit": None}
    assert estimate(3600.0, device="cuda", threads=1) is None


def test_without_a_board_there_is_no_answer(no_board: None) -> None:
    assert ask_board() is None
    assert estimate(3600.0, device="cuda:1", threads=1) is None


def test_readings_give_the_mean(tmp_path: Path) -> None:
    file = tmp_path / "power.jsonl"
    file.write_text('{"watts": 500.0}\n{"watts": 700.0}\n{"wat')
    found = estimate(1800.0, device="cuda", threads=4, readings=file)
    assert found is not None and found.measured
    assert found.to_dict() == {
        "kwh": 0.3,
        "hours": 0.5,
        "watts": 600.0,
        "source": "the mean of 2 readings of the board's power while it trained",
        "measured": True,
    }


def test_a_cpu_is_assumed_and_said_to_be(tmp_path: Path) -> None:
    found = estimate(7200.0, device="cpu", threads=4, readings=tmp_path / "none.jsonl")
    assert found is not None and not found.measured
    assert found.kwh == pytest.approx(2.0 * 4 * energy.ASSUMED_WATTS_A_THREAD / 1000)
    assert found.source == "an assumption: 5 W for each thread, the processor only"


def test_a_boards_limit_is_an_upper_bound(board) -> None:
    board("90.0, 700.0")
    found = estimate(3600.0, device="cuda", threads=4)
    assert found is not None and not found.measured
    assert (found.kwh, found.source) == (0.7, "an upper bound: the board's power limit")


def test_a_watch_ends_with_the_process_it_watches(board, tmp_path: Path) -> None:
    board("400.0, 700.0")
    file = tmp_path / "power.jsonl"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        watcher = threading.Thread(target=watch, args=(file, process.pid), kwargs={"every": 0.01})
        watcher.start()
        while not file.exists() or len(file.read_text().splitlines()) < 2:
            assert watcher.is_alive()
            time.sleep(0.01)
        process.communicate(b"")
    watcher.join(timeout=60)
    assert not watcher.is_alive()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(line["watts"], line["limit"]) for line in lines} == {(400.0, 700.0)}


def test_a_watch_without_a_board_ends_at_once(no_board: None, tmp_path: Path) -> None:
    watch(tmp_path / "power.jsonl", os.getpid())
    assert not (tmp_path / "power.jsonl").exists()
