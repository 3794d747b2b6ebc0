"""`models`, `attentions` and `summary` tell what the registries hold."""

from __future__ import annotations

import json

import pytest

from sparse_attn.attention import Attention2d, attentions, create_attention
from sparse_attn.backbones import models
from sparse_attn.factory import create_model
from sparse_attn.summary import summary
from tests.cli.conftest import Command


def test_models(command: Command) -> None:
    outcome = command("models")
    assert outcome.code == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0] == ["name", "scale", "parameters", "pretrained"]
    assert [line[0] for line in lines[1:]] == models.names()
    count = sum(p.numel() for p in create_model("edsr_baseline_x3").parameters())
    assert ["edsr_baseline_x3", "x3", f"{count:,}", "no"] in lines
    assert [line[3] for line in lines if line[0] in ("nlsn_light_x2", "nlsn_light_x4")] == ["yes", "yes"]


def test_models_by_pattern_and_as_json(command: Command) -> None:
    records = json.loads(command("models", "nlsn_x*", "--json").out)
    assert [r["name"] for r in records] == ["nlsn_x2", "nlsn_x3", "nlsn_x4"]
    # The published 41,796,187 counts the 24 numbers of the two colour shifts.
    assert records[0] == {"name": "nlsn_x2", "scale": 2, "parameters": 41_796_163, "pretrained": False}
    names = {r["name"] for r in json.loads(command("models", "--pretrained", "--json").out)}
    assert {"nlsn_light_x2", "nlsn_light_x4"} <= names
    outcome = command("models", "nlsm_x2")
    assert outcome.code == 1 and outcome.errors[0].startswith("error: unknown model 'nlsm_x2'; did you mean nlsn_x2")


def test_attentions_come_from_the_registry(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy(Attention2d):
        """A toy for this test.

        More about it.
        """

        def __init__(self, channels: int, *, reduction: int = 4, ball: str = "red") -> None:
            super().__init__(channels, reduction=reduction)

    monkeypatch.setitem(attentions._entries, "toy", Toy)
    out = command("attentions").out
    lines = [line.strip() for line in out.splitlines()]
    assert "toy            A toy for this test." in lines and "ball=red" in out
    assert [line.split()[0] for line in out.splitlines()[1:-1] if not line.startswith(" ")] == attentions.names()
    assert lines[-1].startswith("(each)") and "reduction=4" in lines[-1]
    assert "More about it" not in out


def test_attention_settings_are_those_that_can_be_given(command: Command) -> None:
    records = json.loads(command("attentions", "nlsa", "--json").out)
    assert [r["name"] for r in records] == ["nlsa"]
    assert {"bucket_size", "rounds", "boundary", "reduction"} <= set(records[0]["settings"])
    create_attention("nlsa", 8, **records[0]["settings"])
    outcome = command("attentions", "nlsb")
    assert outcome.code == 1 and outcome.errors[0].startswith("error: unknown attention 'nlsb'; did you mean nlsa")


def test_summary(command: Command) -> None:
    outcome = command("summary", "edsr_baseline_x2", "--size", "1x3x7x11", "--depth", 1)
    assert outcome.code == 0
    expected = summary(create_model("edsr_baseline_x2"), (1, 3, 7, 11), depth=1)
    assert f"{expected.parameters:,}" in outcome.out and f"{expected.flops:,}" in outcome.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edsr_x2", "--size", "48"], "error: bad size, expected four positive integers"),
        (["edsr_baseline_x2", "--size", "1x3xax7"], "error: bad size, expected BxCxHxW, as 1x3x48x48, got '1x3xax7'"),
        (["edsr_y2"], "error: unknown model 'edsr_y2'; did you mean edsr_x2"),
    ],
)
def test_summary_refuses_in_one_line(command: Command, words: list[str], said: str) -> None:
    outcome = command("summary", *words)
    assert outcome.code == 1 and len(outcome.errors) == 1 and outcome.errors[0].startswith(said)
