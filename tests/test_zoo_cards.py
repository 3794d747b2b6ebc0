"""From a run to a folder of the zoo and its model card; and whether a machine can train at all."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError, DataError, WeightsError
from sparse_attn.training import Recipe, Stage
from sparse_attn.weights import read_weights, write_zoo_folder
from tests.cli.conftest import picture

ROOT = Path(__file__).resolve().parent.parent
MODEL = "nlsn_light_x2"
TINY = {"n_resblocks": 1, "n_feats": 8, "attention_at": [0]}
RECORD = {"psnr": 37.362, "ssim": 0.95784, "scale": 2, "model": MODEL}
TRAINING = {
    "command": "sparse-attn train zoo/toy/recipe.yaml",
    "date": "2026-11-22T17:00:00+00:00",
    "seconds": 1800.0,
    "steps": 14210,
    "stages": [
        {"name": "trunk", "steps": 9000, "batch": 16, "patch": 48, "lr": 2e-4, "attention": False, "seconds": 540.0},
        {"name": "full", "steps": 5210, "batch": 16, "patch": 48, "lr": 2e-4, "attention": True, "seconds": 1260.0},
    ],
    "init": None,
    "threads": 16,
    "machine": {"gpu": "NVIDIA H200", "cpu": "EPYC"},
    "torch": "2.15.0",
    "device": "cuda",
    "energy": {"kwh": 0.3, "hours": 0.5, "watts": 600.0, "source": "the mean of 2 readings", "measured": True},
}
LOG = [
    {"stage": "trunk", "step": 20, "lr": 1e-4, "loss": 0.1, "seconds": 60.0},
    {"stage": "trunk", "step": 40, "lr": 2e-4, "loss": 0.1, "seconds": 120.0},
    {"stage": "trunk", "step": 40, "val_psnr": 27.5, "val_images": 24},
    {"stage": "full", "step": 20, "lr": 3e-4, "loss": 0.1, "seconds": 210.0},
    {"stage": "full", "step": 20, "val_psnr": 28.125, "val_images": 24},
]
MANIFEST = {
    "tiles": 1065,
    "megapixels": 246.8,
    "sources": [{"source": "clic", "repo": "https://example.org/clic", "licence": "CC0", "tiles": 126}],
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of `benchmarks/`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the zoo with everything in it but a card."""
    made = tmp_path / "zoo" / MODEL
    made.mkdir(parents=True)
    results = {f"{MODEL}/Set5": RECORD, f"{MODEL}/Kodak": RECORD, "bicubic/Set5": {**RECORD, "psnr": 33.68}}
    files = {"results.json": results, "training.json": TRAINING, "training_data.json": MANIFEST}
    for name, content in files.items():
        (made / name).write_text(json.dumps(content))
    (made / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    (made / "recipe.yaml").write_text("model: toy\n")
    (made / "curves.svg").write_text("<svg/>")
    return made


def test_a_new_card_says_what_the_files_say(script, folder: Path) -> None:
    text = " ".join(script("model_card").card(folder).split())
    for said in (
        "16 residual blocks, 64 wide, and `nlsa` after 0, 8, 16 blocks. 1,410,035 parameters.",
        "| nlsn_light_x2 | 37.36 / 0.9578 | 37.36 / 0.9578 |",
        "| bicubic | 33.68 / 0.9578 | – |",
        "| NLSN as published, 32 blocks, 256 wide, trained on DIV2K | 38.34 / 0.9618 | – |",
        "The last row: Mei, Fan, Zhou, CVPR 2021, as quoted in table 2 of Liang et al., SwinIR, 2021.",
        "```sh sparse-attn train zoo/toy/recipe.yaml ```",
        "| trunk | 9000 | 16 | 48 | – | 0.0002 | no | 9.0 |",
        "| full | 5210 | 16 | 48 | – | 0.0002 | yes | 21.0 |",
        "Started from random weights. L1 loss.",
        "as the training measured it: trunk 27.50 dB; full 28.12 dB.",
        "14,210 steps in 30 minutes on NVIDIA H200, PyTorch 2.15.0, 2026-11-22. "
        "Energy: 0.3 kWh = 0.500 h × 600 W; the power is the mean of 2 readings.",
        "![Loss and validation PSNR over the steps](curves.svg)",
        "1,065 tiles (247 megapixels);",
        "| clic | <https://example.org/clic> | CC0 | 126 |",
        "## Limits It knows one degradation",
    ):
        assert said in text, said


def test_the_hub_reads_the_metadata(script, folder: Path) -> None:
    data = ModelCard(script("model_card").card(folder)).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "sparse_attn", "image-to-image")
    assert data.model_name == MODEL
    found = {(result.dataset_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {
        ("Set5", "psnr"): 37.36,
        ("Set5", "ssim"): 0.9578,
        ("Kodak", "psnr"): 37.36,
        ("Kodak", "ssim"): 0.9578,
    }


def test_words_around_the_markers_stay_and_a_second_time_changes_nothing(script, folder: Path) -> None:
    card = script("model_card").card
    text = card(folder).replace("It knows one degradation", "By hand: it knows one degradation")
    text = text.replace("37.36", "99.99").replace("license: apache-2.0", "license: other")
    (folder / "README.md").write_text(text)
    again = card(folder)
    assert "By hand: it knows one degradation" in again
    assert "99.99" not in again and "license: other" not in again
    (folder / "README.md").write_text(again)
    assert card(folder) == again


def test_a_card_without_markers_is_not_overwritten(script, folder: Path) -> None:
    (folder / "README.md").write_text("# by hand\n")
    with pytest.raises(ValueError, match=r"README.md lacks <!-- card:begin -->"):
        script("model_card").card(folder)


def test_a_log_alone_tells_steps_and_time(script, folder: Path) -> None:
    (folder / "training.json").unlink()
    (folder / "training_data.json").unlink()
    text = " ".join(script("model_card").card(folder).split())
    assert "| trunk | 40 | – | – | – | 0.0002 | – | 2.0 |" in text
    assert "| full | 20 | – | – | – | 0.0003 | – | 1.5 |" in text
    assert "60 steps in 4 minutes; the machine is not recorded." in text
    assert "Energy" not in text and "Started from" not in text and "## Data and licence" not in text


def test_a_model_without_weights_says_so(script, tmp_path: Path) -> None:
    text = script("model_card").card(tmp_path / "nlsn_x4")
    assert "There are no weights yet" in text and "Not yet. `recipe.yaml` is ready" in text
    assert "model-index" not in text
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize("file", sorted((ROOT / "zoo").glob("*/README.md")), ids=lambda file: file.parent.name)
def test_the_cards_of_the_zoo_are_those_of_their_files(script, file: Path) -> None:
    card = script("model_card")
    text = file.read_text(encoding="utf-8")
    if not card.MARKED.search(text):
        pytest.skip("written by hand")
    assert card.card(file.parent) == text, f"run: python benchmarks/model_card.py zoo/{file.parent.name}"
    assert ModelCard(text).data.license == "apache-2.0"


def test_published_figures_are_of_known_models_and_name_their_source(script) -> None:
    card = script("model_card")
    figures = json.loads(card.PUBLISHED.read_text(encoding="utf-8"))
    assert set(figures) <= set(models.names())
    assert all(entry["source"] and entry["name"] for entry in figures.values())
    assert card.published("nlsn_light_x3") == card.published("nlsn_x3") == figures["nlsn_x3"]
    assert card.published("rcan_x2") == {}


def test_the_table_tells_what_training_took(script, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    table: ModuleType = importlib.import_module("zoo_table")
    (folder / "config.json").write_text(json.dumps({"model": MODEL, "config": {}, "files": {}}))
    results = [{**RECORD, "folder": "data/eval/Set5/x2"}, {**RECORD, "model": "bicubic", "folder": "data/eval/Set5/x2"}]
    (folder / "results.json").write_text(json.dumps(results))
    assert table.zoo_table(folder.parent).splitlines() == [
        "| model | scale | parameters | trained | Set5 |",
        "|---|---|--:|---|---|",
        "| bicubic | ×2 |  |  | 37.36 / 0.9578 |",
        "| `nlsn_light_x2` | ×2 | 1,410,035 | 14,210 steps, 30 min | 37.36 / 0.9578 |",
    ]
    assert "Trained on 2026-11-22 for 14,210 steps, 30 min, on NVIDIA H200." in table.zoo_section(folder.parent)
    (folder / "training.json").unlink()
    assert table.zoo_table(folder.parent).startswith("| model | scale | parameters | Set5 |\n|---|---|--:|---|\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What `sparse-attn train` leaves, on a machine whose paths are nobody's business."""
    made = tmp_path / "run" / MODEL
    weights = models.get(MODEL).build(**TINY).state_dict()
    write_zoo_folder(made, weights, model=MODEL, config=TINY)
    training = {**TRAINING, "command": f"sparse-attn train zoo/toy/recipe.yaml --data {tmp_path}/data --set seed=1"}
    (made / "training.json").write_text(json.dumps({**training, "device": "cpu"}))
    lines = [*LOG, {"stage": "full", "step": 20, "start": {"recipe": {"train": f"{tmp_path}/data/train"}}}]
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "recipe.yaml").write_text("model: toy\n")
    return tmp_path / "run"


def test_a_run_is_packed(script, run: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "manifest.json").write_text(json.dumps(MANIFEST))
    made = tmp_path / "zoo" / MODEL
    made.mkdir(parents=True)
    (made / "curves.svg").write_text("<svg/>")
    script("zoo_pack").pack(run, made, recipe=tmp_path / "recipe.yaml", data=tmp_path / "data")
    files = {"config.json", "curves.svg", "log.jsonl", "model.safetensors", "recipe.yaml", "training.json"}
    assert {file.name for file in made.iterdir()} == {*files, "training_data.json"}
    stored, trained = read_weights(made, recorded_only=True), read_weights(run / MODEL)
    assert all(torch.equal(stored[name], tensor.half()) for name, tensor in trained.items())
    training = json.loads((made / "training.json").read_text())
    assert training["command"] == "sparse-attn train zoo/toy/recipe.yaml --data data --set seed=1"
    assert training["energy"]["source"].startswith("an assumption: ")
    assert json.loads((made / "log.jsonl").read_text().splitlines()[-1])["start"] == {"recipe": {"train": "train"}}
    assert not any(str(tmp_path) in file.read_text() for file in made.iterdir() if file.suffix != ".safetensors")
    recipe = (made / "recipe.yaml").read_text()
    script("zoo_pack").pack(run, made, recipe=made / "recipe.yaml", data=tmp_path / "data")
    assert (made / "recipe.yaml").read_text() == recipe


def test_shards_are_no_larger_than_sixteen_mebibytes(script, run: Path, tmp_path: Path) -> None:
    made = run / MODEL
    write_zoo_folder(made, {f"w{i}": torch.zeros(2**20) for i in range(17)}, model=MODEL, config=TINY)
    script("zoo_pack").pack(run, tmp_path / "zoo" / MODEL, recipe=tmp_path / "recipe.yaml", data=tmp_path)
    shards = sorted((tmp_path / "zoo" / MODEL).glob("*.safetensors"))
    assert len(shards) == 3
    assert max(shard.stat().st_size for shard in shards) <= 16 * 2**20


def test_a_run_that_has_not_finished_is_not_packed(script, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"holds no {MODEL}, expected .*; train it to the end first"):
        script("zoo_pack").pack(tmp_path, tmp_path / MODEL, recipe=tmp_path / "recipe.yaml", data=tmp_path)


def test_measured_are_the_sets_there_are_with_the_zoos_files(
    script, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo: ModuleType = script("zoo")
    monkeypatch.delenv("SPARSE_ATTN_ZOO", raising=False)
    data = tmp_path / "pictures"
    with pytest.raises(DataError, match=f"nothing to measure {MODEL} on, expected one of .*Set5.*Set14.*kodak"):
        zoo.measure_all(MODEL, data=data, zoo=folder.parent)
    picture(data / "val" / "kodak" / "0.png", 24, 28)
    write_zoo_folder(folder, models.get(MODEL).build(**TINY).state_dict(), model=MODEL, config=TINY)
    records = zoo.measure_all(MODEL, data=data, zoo=folder.parent, device="cpu")
    assert list(records) == [f"{MODEL}/Kodak", "bicubic/Kodak"]
    record = records[f"{MODEL}/Kodak"]
    assert record["command"] == f"sparse-attn evaluate pictures/val/kodak --model {MODEL} --make-lr"
    assert (record["folder"], record["lr"]) == ("pictures/val/kodak", records["bicubic/Kodak"]["lr"])
    assert record["psnr"] != records["bicubic/Kodak"]["psnr"]


STAGES = (Stage(name="bare", steps=2, lr=1e-3, attention=False), Stage(name="full", steps=2, lr=1e-3))


def recipe(model: str, **values: object) -> Recipe:
    return Recipe(**{"model": model, "stages": STAGES, "train": "train", "val": "val", **values})


@pytest.fixture
def zoo_of_toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts tiny weights into a zoo of its own."""
    from sparse_attn.weights import zoo

    root = tmp_path / "weights"
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [root])

    def add(name: str, **config: object) -> Path:
        full = {**TINY, **config}
        write_zoo_folder(root / name, models.get(name).build(**full).state_dict(), model=name, config=full)
        return root / name

    return add


def test_a_start_is_the_models_own_weights_then_its_nearest_relations(script, zoo_of_toys) -> None:
    find_start = script("preflight").find_start
    wanted = recipe("nlsn_light_x4", model_config=TINY)
    zoo_of_toys("nlsn_light_x3", n_feats=12)
    assert find_start(wanted) == (
        None,
        "random weights: no model with weights has its blocks (n_resblocks 1, n_feats 8)",
    )
    far = zoo_of_toys("nlsn_light_x2")
    assert find_start(wanted) == (far, "the weights of nlsn_light_x2, its nearest relation")
    near = zoo_of_toys("edsr_baseline_x4", attention=None)
    assert find_start(wanted) == (near, "the weights of edsr_baseline_x4, its nearest relation")
    own = zoo_of_toys("nlsn_light_x4")
    assert find_start(wanted) == (own, "the weights of nlsn_light_x4, its own so far")
    assert find_start(recipe("nlsn_x4"))[0] is None


def test_attention_that_was_trained_is_not_taken_out_again(script, zoo_of_toys, tmp_path: Path) -> None:
    start_words = script("preflight").start_words
    wanted = recipe("nlsn_light_x4", model_config=TINY)
    assert start_words(wanted, None)[0] == []
    bare = zoo_of_toys("edsr_baseline_x4", attention=None)
    assert start_words(wanted, None)[0] == ["--init", str(bare)]
    own = zoo_of_toys("nlsn_light_x4")
    assert start_words(wanted, None)[0] == ["--init", str(own), "--set", "stages.bare.attention=true"]
    assert start_words(wanted, bare) == (["--init", str(bare)], f"the weights of {bare}, as asked")
    assert start_words(wanted, Path("none")) == ([], "random weights, as asked")
    chosen = recipe("nlsn_light_x2", model_config=TINY, init=str(bare))
    assert start_words(chosen, None)[1] == f"the weights of {bare}, the recipe's own choice"
    with pytest.raises(WeightsError, match="no weights at"):
        start_words(wanted, tmp_path / "nothing")


def test_what_a_machine_lacks_is_said(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight: ModuleType = script("preflight")
    assert "accelerate" in preflight.check_packages()
    monkeypatch.setattr(preflight, "NEEDED", ("nothing_of_this_name",))
    with pytest.raises(
        ConfigError, match=r"a package is missing, expected nothing_of_this_name, got not installed; pip"
    ):
        preflight.check_packages()
    cpu = torch.device("cpu")
    assert preflight.check_device(cpu, weights=1).startswith("no CUDA device is used: everything runs on cpu, ")
    with pytest.raises(ConfigError, match=r"too little memory is free on cpu, expected more than 5000000.0 GB"):
        preflight.check_device(cpu, weights=10**15)
    assert " GB free in " in preflight.check_disk(tmp_path, weights=1)
    with pytest.raises(DataError, match=r"too little room in .*, expected 16000000.2 GB for checkpoints"):
        preflight.check_disk(tmp_path, weights=10**15)


def test_data_without_images_is_said(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path / "cache"))
    check_data = script("preflight").check_data
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    wanted = recipe("nlsn_light_x2", train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    with pytest.raises(DataError, match="no images"):
        check_data(wanted, say=print)
    picture(tmp_path / "train" / "a.png", 24, 28)
    with pytest.raises(DataError, match=f"no images .*{tmp_path}/val"):
        check_data(wanted, say=print)
    picture(tmp_path / "val" / "b.png", 24, 28)
    assert check_data(wanted, say=print).startswith("1 training images in ")


def test_the_recipe_of_the_flagship_is_the_papers_network(script) -> None:
    values = yaml.safe_load((ROOT / "zoo" / "nlsn_x4" / "recipe.yaml").read_text(encoding="utf-8"))
    assert values["model"] == "nlsn_x4" and "model_config" not in values
    assert values["stages"][-1].get("attention", True) and values["stages"][-1].get("schedule", "cosine") == "cosine"
