"""Ablations as data: the shipped ones can be built, and bad ones say what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sparse_attn.attention import Attention2d, configure_attention
from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError, DataError, UnknownNameError
from sparse_attn.factory import create_model
from sparse_attn.reproduction import ARITHMETIC, find_scale, list_ablations, load_ablation
from sparse_attn.reproduction.plan import Ablation, find_ablation
from sparse_attn.training import load_recipe
from tests.reproduction.support import TOY

TRAINED = ["figure5", "figure6", "table2", "table3", "table4"]


def _shipped(name: str) -> Ablation:
    return load_ablation(find_ablation(name))


def test_every_table_and_figure_has_its_file() -> None:
    assert list_ablations() == sorted([*TRAINED, ARITHMETIC])


@pytest.mark.parametrize("name", TRAINED)
def test_every_variant_is_the_network_of_the_paper_and_passes_every_test(name: str) -> None:
    ablation = _shipped(name)
    x = torch.rand(1, 3, 17, 19)
    with torch.device("meta"):
        trunk = {key for key in models.get(ablation.model).build().state_dict() if ".attention." not in key}
        whole = [models.get(ablation.model).build(**ablation.config(variant)) for variant in ablation.variants]
    for variant, full in zip(ablation.variants, whole, strict=True):
        assert {key for key in full.state_dict() if ".attention." not in key} == trunk
        assert list(full.body.attention) in (["8"], [])
        toy = models.get(ablation.model).build(**ablation.config(variant, TOY) | {"attention_at": [1]}).eval()
        for condition in ablation.conditions(variant):
            if condition.settings:
                assert configure_attention(toy, **condition.settings) == 1
            assert toy(x).shape == (1, 3, 34, 38)


def test_the_variants_of_table_2_are_what_is_asked_for() -> None:
    ablation = _shipped("table2")
    blocks = {}
    for variant in ablation.variants:
        slots = create_model(ablation.model, **ablation.config(variant)).body.attention
        blocks[variant.name] = slots["8"] if len(slots) else None
    assert blocks["none"] is None
    attentions = [block for block in blocks.values() if isinstance(block, Attention2d)]
    assert [type(block).__name__ for block in attentions] == [
        "LocalWindowAttention",
        "RandomBucketAttention",
        "NonLocalSparseAttention",
    ]
    assert attentions[0].window == (12, 12)
    assert [len(list(block.parameters())) for block in attentions] == [4, 4, 4]


def test_tables_share_runs() -> None:
    def configs(name: str) -> list[dict[str, Any]]:
        ablation = _shipped(name)
        return [ablation.config(variant) for variant in ablation.variants]

    lsh = configs("table2")[3]
    for name in ("table3", "figure5", "figure6"):
        assert lsh in configs(name)
    assert configs("table2")[1] in configs("figure5")


def test_the_paper_is_quoted_with_a_source_or_not_at_all() -> None:
    for name in TRAINED:
        ablation = _shipped(name)
        quoted = [value for variant in ablation.variants for value in variant.paper.values() if value is not None]
        assert bool(quoted) != ablation.paper_source.startswith("not shown")


@pytest.mark.parametrize("name", ["tiny", "small", "paper"])
def test_scales_are_recipes_for_the_model_of_every_ablation(name: str) -> None:
    recipe = load_recipe(find_scale(name))
    assert recipe.model_config == {}
    assert {_shipped(ablation).model for ablation in TRAINED} == {recipe.model}


def test_a_scale_may_be_a_file() -> None:
    assert find_scale("somewhere/toy.yaml") == Path("somewhere/toy.yaml")
    with pytest.raises(
        UnknownNameError, match="unknown scale of effort, and no recipe file 'tinny'; did you mean tiny"
    ):
        find_scale("tinny")


def test_unknown_tables_name_their_close_match() -> None:
    with pytest.raises(UnknownNameError, match="unknown table or figure 'tabel2'; did you mean table2"):
        find_ablation("tabel2")


def test_no_ablations_say_where_they_were_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_attn.reproduction.plan.zoo_folders", lambda: [tmp_path])
    with pytest.raises(DataError, match=r"no ablations, expected YAML files in .*ablations; run in a checkout"):
        list_ablations()


GOOD: dict[str, Any] = {
    "title": "A toy",
    "source": "nowhere",
    "paper_source": "not shown: none",
    "model": "edsr_baseline_x2",
    "benchmark": "eval/Set5/x2",
    "variants": [{"name": "none", "model_config": {}}],
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"varaints": []}, UnknownNameError, "unknown field of toy.yaml 'varaints'; did you mean variants"),
        ({"title": 3}, ConfigError, "toy.yaml: title has the wrong type, expected str, got 3"),
        ({"model_config": [8]}, ConfigError, "toy.yaml: model_config has the wrong type"),
        ({"variants": "none"}, ConfigError, "toy.yaml, entry of variants is not a list"),
        ({"variants": []}, ConfigError, "toy: bad variants, expected at least one"),
        ({"variants": [{"name": "none"}]}, ConfigError, "toy.yaml, entry of variants 1 lacks model_config"),
        ({"variants": [{"name": "a", "model_config": {}, "x": "5"}]}, ConfigError, "variants 1: x has the wrong type"),
        ({"variants": [{"name": "a", "model_config": {}, "x": True}]}, ConfigError, "x has the wrong type"),
        ({"variants": [*GOOD["variants"], *GOOD["variants"]]}, ConfigError, "expected at least one, of distinct names"),
        ({"variants": ["none"]}, ConfigError, "toy.yaml, entry of variants 1 is not a mapping"),
        (
            {"variants": [{"name": "a", "model_config": {}, "tests": ["r=2"]}]},
            UnknownNameError,
            "unknown test of toy, variant 'a' 'r=2'; known: as trained",
        ),
        (
            {"variants": [{"name": "a", "model_config": {"atention": "nla"}}]},
            UnknownNameError,
            "unknown argument of edsr_baseline_x2 'atention'; did you mean attention",
        ),
        ({"model": "edsr_basline_x2"}, UnknownNameError, "unknown model 'edsr_basline_x2'"),
        ({"tests": [{"name": "a"}, {"name": "a"}]}, ConfigError, "toy: bad tests"),
    ],
)
def test_bad_files_say_what_is_wrong(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(error, match=message):
        load_ablation(path)


def test_a_file_that_lacks_something(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in GOOD.items() if key != "benchmark"}))
    with pytest.raises(ConfigError, match=r"toy\.yaml lacks benchmark; add the missing fields"):
        load_ablation(path)


@pytest.mark.parametrize(
    ("content", "message"), [("- a list", "is not a mapping"), ("a: [", "is not YAML"), (None, "cannot read")]
)
def test_files_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "toy.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_ablation(path)
