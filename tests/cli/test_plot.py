"""`sparse-attn plot`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command

LINE = '{"stage": "a", "step": 20, "total_step": 20, "loss": 0.3, "lr": 0.1}\n'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("one/x", "two/x", "y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "log.jsonl").write_text(LINE)
    return tmp_path


def test_runs_are_drawn_under_their_names(command: Command, runs: Path) -> None:
    outcome = command("plot", "one/x", "y", "-o", "a.svg")
    assert (outcome.code, outcome.out) == (0, "written to a.svg\n")
    assert ">x<" in (runs / "a.svg").read_text()


def test_runs_of_the_same_name_are_told_apart(command: Command, runs: Path) -> None:
    assert command("plot", "one/x", "two/x", "-o", "a.svg").code == 0
    drawn = (runs / "a.svg").read_text()
    assert ">one/x<" in drawn and ">two/x<" in drawn


def test_nothing_is_overwritten_unasked(command: Command, runs: Path) -> None:
    (runs / "a.png").write_text("mine")
    outcome = command("plot", "y", "-o", "a.png")
    assert (outcome.code, outcome.errors) == (1, ["error: cannot write a.png: it exists; pass --overwrite"])
    assert (runs / "a.png").read_text() == "mine"
    assert command("plot", "y", "-o", "a.png", "--overwrite").code == 0
    assert (runs / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no run in nowhere, expected a folder with log.jsonl"),
        (("y", "-o", "a.gif"), "cannot draw a.gif, expected a name ending in .svg or .png"),
    ],
)
def test_bad_input(command: Command, runs: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = command("plot", *arguments)
    assert outcome.code == 1
    assert message in outcome.errors[0]
