"""Tables at the scale of a toy, end to end: shared runs are trained once, interrupted ones go on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_attn.errors import ConfigError, DataError
from sparse_attn.reproduction import Effort, Record, chart, load_ablation, markdown, report, reproduce
from sparse_attn.reproduction.plan import find_ablation
from sparse_attn.reproduction.text import verdict_lines
from sparse_attn.training import Recipe, Trainer
from sparse_attn.weights import read_weights

CPU = torch.device("cpu")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The runs that were trained, by their model_config and seed, and the minutes they were given."""
    found: list[dict[str, Any]] = []
    run = Trainer.run

    def counted(self: Trainer) -> dict[str, Tensor]:
        found.append({**self.recipe.model_config, "seed": self.recipe.seed, "minutes": self.max_minutes})
        return run(self)

    monkeypatch.setattr(Trainer, "run", counted)
    return found


def table(name: str, effort: Effort, data: Path, **options: Any) -> Record:
    out = options.pop("out", data.parent / "out")
    return reproduce(load_ablation(find_ablation(name)), effort, data=data, out=out, device=CPU, **options)


def test_tables_2_and_3(effort: Effort, data: Path, trained: list[dict[str, Any]]) -> None:
    said: list[str] = []
    second = table("table2", effort, data, say=said.append, command="as typed")
    assert said[0] == "table2: 4 runs, 4 to train"
    assert [run["attention"] for run in trained] == [None, "local_window", "random_bucket", "nlsa"]
    assert all(run["n_feats"] == 8 and run["minutes"] is None for run in trained)

    third = table("table3", effort, data, say=said.append)
    assert "table3: 4 runs, 3 to train" in said
    assert [run["attention_kwargs"]["rounds"] for run in trained[4:]] == [1, 2, 8]
    shared = next(cell for cell in third.cells if (cell.variant, cell.test) == ("trained with r=4", "r=4"))
    assert shared.values == second.cells[3].values
    assert shared.runs == second.cells[3].runs
    assert len(third.cells) == 16
    by_test = {cell.test: cell.mean for cell in third.cells if cell.variant == "trained with r=1"}
    # More rounds are another function of the same weights.
    assert len(set(by_test.values())) > 1

    again = table("table2", effort, data)
    assert len(trained) == 7
    assert [cell.values for cell in again.cells] == [cell.values for cell in second.cells]
    for record in (second, third, again):
        assert record.complete
        assert all(cell.mean is not None and 5 < cell.mean < 60 for cell in record.cells)

    values = json.loads(second.to_json())
    assert values["command"] == "as typed"
    assert values["complete"] is True
    assert len(values["runs"]) == 4
    for run in values["runs"].values():
        assert run["training"]["steps"] == 3
        assert run["training"]["machine"]["torch"] == torch.__version__
        assert len(run["measured"]["as trained"]["images"]) == 2
    assert [verdict["told_apart"] for verdict in values["verdicts"]] == [None] * 6


def test_what_is_said_about_a_table(effort: Effort, data: Path) -> None:
    record = table("table4", replace(effort, seeds=2), data)
    text = report(record)
    scale = "scale toy: 3 steps, batch 2, LR patch 16; float32, 2 seeds, trained on train"
    assert text.index(scale) < text.index("theta = phi")
    assert "as run: 4 runs, 3 steps and" in text
    assert "paper's figures: not shown" in text
    assert len(verdict_lines(record)) == 2
    assert verdict_lines(record)[-1].startswith("rule: A is called above B only where")
    for verdict in record.verdicts:
        assert verdict.spread is not None
        assert (" above " in str(verdict)) == (verdict.difference > verdict.spread)
    page = markdown(record, picture="table4.svg")
    assert "| theta = phi | – | " in page
    assert "](table4.svg)" in page


def test_interrupted_runs_go_on_to_the_same_end(effort: Effort, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table("table4", effort, data, out=data.parent / "whole")
    step = Trainer.train_step
    steps: list[int] = []

    def pressing(self: Trainer) -> Any:
        steps.append(self.step)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", pressing)
    kept: list[Record] = []
    with pytest.raises(KeyboardInterrupt):
        table("table4", effort, data, keep=kept.append)
    assert [len(cell.values) for cell in kept[-1].cells] == [1, 0]
    assert not kept[-1].complete
    assert "NOT COMPLETE" in report(kept[-1])
    parts = table("table4", effort, data)
    # A run of 3 steps, and one that was interrupted in its second.
    assert steps == [0, 1, 2] * 2
    assert [cell.values for cell in parts.cells] == [cell.values for cell in whole.cells]
    for name in parts.runs:
        ended = [read_weights(data.parent / out / "runs" / name / "edsr_baseline_x2") for out in ("out", "whole")]
        assert all(torch.equal(ended[0][key], ended[1][key]) for key in ended[0])


def test_a_budget_is_shared_and_does_not_mix(effort: Effort, data: Path, trained: list[dict[str, Any]]) -> None:
    table("table4", effort, data)
    limited = replace(effort, budget=0.02, seeds=2)
    record = table("table4", limited, data)
    assert record.minutes_each == pytest.approx(0.005)
    assert [run["minutes"] for run in trained] == [None, None, *[pytest.approx(0.005)] * 4]
    assert len(record.runs) == 4
    assert all(run["training"]["max_minutes"] == pytest.approx(0.005) for run in record.runs.values())
    assert "0.005 minutes a run of a budget of 0.02, so steps differ" in report(record)
    assert json.loads(record.to_json())["budget"] == 0.02
    table("table4", limited, data)
    assert len(trained) == 6


def test_progress_is_given_each_runs_recipe(effort: Effort, data: Path) -> None:
    seen: list[Recipe] = []
    lines: list[dict[str, Any]] = []

    @contextmanager
    def progress(recipe: Recipe) -> Iterator[Any]:
        seen.append(recipe)
        yield lines.append

    table("table4", effort, data, progress=progress)
    assert [recipe.model_config["attention_kwargs"]["shared_qk"] for recipe in seen] == [False, True]
    assert sum("val_psnr" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["figure5", "figure6", "table3"])
def test_figures_are_drawn(name: str, effort: Effort, data: Path) -> None:
    """From records alone: what is drawn does not depend on how it was trained."""
    from sparse_attn.reproduction.record import make_cell

    ablation = load_ablation(find_ablation(name))
    record = Record(ablation=ablation, scale="toy", recipe={}, seeds=[0, 1], budget=None, minutes_each=None)
    for i, variant in enumerate(ablation.variants):
        for condition in ablation.conditions(variant):
            values = {0: 30.0 + i, 1: 30.5 + i}
            record.cells.append(make_cell(ablation, variant, condition, values, {}))
    svg = chart(record)
    assert svg.startswith("<?xml")
    assert ablation.axis is not None and ablation.axis in svg
    assert all(cell.series in svg for cell in record.cells)
    assert chart(record) == svg


def test_pairs_of_figures(effort: Effort, data: Path) -> None:
    from sparse_attn.reproduction.record import make_cell, pairs

    def labels(name: str) -> list[tuple[str, str]]:
        ablation = load_ablation(find_ablation(name))
        cells = [make_cell(ablation, v, c, {}, {}) for v in ablation.variants for c in ablation.conditions(v)]
        return [(one.label, other.label) for one, other in pairs(cells, lined=ablation.axis is not None)]

    five = labels("figure5")
    assert len(five) == 2 * 6 + 7
    assert ("NLSA, 5x5", "window NLA, 5x5") in five
    assert ("NLSA, 5x5", "NLSA, 12x12") not in five
    six = labels("figure6")
    plain = "trained without windows, tested with no window"
    assert sum(plain in pair for pair in six) == 7
    assert len(labels("table2")) == 6


def test_the_benchmark_and_the_images_must_be_there(effort: Effort, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no benchmark at .*eval/Set5/x2, expected a folder with HR and LR"):
        table("table2", effort, tmp_path / "nothing")
    empty = replace(effort, recipe=replace(effort.recipe, train=str(tmp_path / "nothing")))
    with pytest.raises(DataError, match=r"nothing in .*nothing, expected a folder of images"):
        table("table2", empty, data)


def test_bad_efforts(effort: Effort, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="bad seeds, expected at least 1, got 0"):
        replace(effort, seeds=0)
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="bad budget"):
            replace(effort, budget=budget)
    other = replace(effort, recipe=replace(effort.recipe, model="edsr_baseline_x4"))
    with pytest.raises(ConfigError, match="table2 is about another model, expected edsr_baseline_x2"):
        table("table2", other, data)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="ablations run as one process, got WORLD_SIZE=2"):
        table("table2", effort, data)
