"""`sparse-attn reproduce`, with a toy recipe and toy counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from sparse_attn.reproduction.plan import find_ablation
from tests.cli.conftest import Command
from tests.reproduction.support import make_data, make_recipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPARSE_ATTN_DATA", raising=False)
    make_data(tmp_path / "data")
    (tmp_path / "recipes").mkdir()
    return make_recipe(tmp_path / "recipes" / "toy.yaml")


def test_a_table_is_measured_written_and_not_trained_twice(command: Command, recipe: Path, tmp_path: Path) -> None:
    words = ("reproduce", "table4", "--scale", recipe, "--seeds", 2, "--device", "cpu", "--out", "made")
    threads = torch.get_num_threads()
    try:
        first = command(*words, "--threads", 1)
    finally:
        torch.set_num_threads(threads)
    assert (first.code, first.errors) == (0, [])
    assert "table4: 4 runs, 4 to train" in first.out
    assert "4 runs, 3 steps and" in first.out
    assert "theta = phi" in first.out
    record = json.loads((tmp_path / "made" / "table4.json").read_text())
    assert record["command"].startswith(f"sparse-attn reproduce table4 --seeds 2 --scale {recipe}")
    assert record["seeds"] == [0, 1]
    assert all(len(cell["values"]) == 2 for cell in record["cells"])
    assert (tmp_path / "made" / "table4.svg").read_text().startswith("<?xml")
    assert "| theta = phi | – |" in (tmp_path / "made" / "table4.md").read_text()
    again = command(*words)
    assert "table4: 4 runs, 0 to train" in again.out
    assert json.loads((tmp_path / "made" / "table4.json").read_text())["cells"] == record["cells"]


def test_the_scale_s_fields_can_be_set(command: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "train").rename(tmp_path / "pictures")
    words = ("reproduce", "table4", "--scale", recipe, "--seeds", 1, "--device", "cpu", "--out", "made")
    assert command(*words).errors[0].startswith(f"error: nothing in {tmp_path}/data/train, ")
    assert command(*words, "--set", f"train={tmp_path / 'pictures'}", "--set", "precision=float32").code == 0
    record = json.loads((tmp_path / "made" / "table4.json").read_text())
    assert record["command"].endswith(f"--set train={tmp_path / 'pictures'} --set precision=float32")


def test_table_5_is_counted(command: Command, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "zoo"
    (small / "ablations").mkdir(parents=True)
    values = {**yaml.safe_load(find_ablation("table5").read_text(encoding="utf-8")), "side": 29}
    (small / "ablations" / "table5.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(small))
    outcome = command("reproduce", "table5", "--out", "made")
    assert (outcome.code, outcome.errors) == (0, [])
    assert "29x29 pixels, 64 channels. A multiplication and the addition after it are two FLOPs" in outcome.out
    rows = json.loads((tmp_path / "made" / "table5.json").read_text())["rows"]
    assert rows[1]["flops"] == 2 * 29 * 29 * 9 * 64 * 64
    assert "| conv 3x3 | 0.7 |" in (tmp_path / "made" / "table5.md").read_text()
    assert "NLSA r=8" in (tmp_path / "made" / "table5.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table7"], "error: unknown table or figure 'table7'; did you mean table"),
        (["table2", "--scale", "huge"], "error: unknown scale of effort, and no recipe file 'huge'"),
        (["table2", "--scale", "none.yaml"], "error: cannot read recipe none.yaml"),
        (["table2", "--data", "nowhere"], "error: no data folder, got nothing at nowhere"),
        (["table2", "--budget", "0"], "error: bad budget, expected a positive number of minutes"),
    ],
)
def test_bad_words(command: Command, recipe: Path, words: list[str], message: str) -> None:
    given = words if "--scale" in words else [*words, "--scale", str(recipe)]
    outcome = command("reproduce", *given)
    assert outcome.code == 1
    assert len(outcome.errors) == 1
    assert outcome.errors[0].startswith(message)
    assert not Path("runs").exists()


def test_no_seeds(command: Command, recipe: Path) -> None:
    outcome = command("reproduce", "table2", "--seeds", 0, "--scale", recipe)
    assert outcome.code == 2
    assert any("'--seeds'" in line for line in outcome.errors)
