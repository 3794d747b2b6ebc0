"""Curves show what the log says."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sparse_attn.errors import DataError
from sparse_attn.training.curves import boundaries, curves, points, read_run

NEW = [
    {"stage": "a", "step": 20, "total_step": 20, "loss": 0.3, "lr": 0.1},
    {"stage": "a", "step": 30, "total_step": 30, "val_psnr": 25.0, "val_images": 2},
    {"stage": "a", "step": 40, "total_step": 40, "loss": 0.2, "lr": 0.0},
    {"stage": "a", "step": 40, "total_step": 40, "val_psnr": 26.0, "val_images": 5},
    {"stage": "b", "step": 20, "total_step": 60, "loss": 0.1, "lr": 0.1},
    {"stage": "b", "step": 20, "total_step": 60, "val_psnr": 27.0, "val_images": 2},
]
OLD = [{key: value for key, value in line.items() if key != "total_step"} for line in NEW]


@pytest.mark.parametrize("log", [NEW, OLD])
def test_steps_go_on_over_stages(log: list[dict[str, object]]) -> None:
    assert points(log, "loss") == ([20, 40, 60], [0.3, 0.2, 0.1])
    assert points(log, "val_psnr") == ([30, 40, 60], [25.0, 26.0, 27.0])
    assert boundaries(log) == [40]


def test_an_svg_names_its_runs(tmp_path: Path) -> None:
    drawn = curves({"first": NEW, "second": OLD})
    assert drawn == curves({"first": NEW, "second": OLD})
    texts = [node.text for node in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    wanted = {"first", "second", "loss (mean absolute error)", "validation PSNR, dB", "learning rate", "2 images"}
    assert wanted <= set(texts)


def test_without_validations_there_is_no_panel_for_them() -> None:
    drawn = curves({"run": [line for line in NEW if "loss" in line]}).decode()
    assert "PSNR" not in drawn


def test_a_png() -> None:
    assert curves({"run": NEW}, kind="png").startswith(b"\x89PNG")


def test_a_log_is_read_up_to_where_a_crash_cut_it(tmp_path: Path) -> None:
    lines = [*map(json.dumps, [{"stage": "a", "step": 0, "init": {}}, *NEW]), '{"stage": "b", "st']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_run(tmp_path) == NEW


@pytest.mark.parametrize(("text", "message"), [(None, "no run in"), ("", "nothing to draw in")])
def test_no_log(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)
