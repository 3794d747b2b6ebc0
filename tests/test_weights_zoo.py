"""Zoo folders: what is written, and where weights are found."""

import hashlib
import json
import os
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.weights import find_pretrained, list_pretrained, local_weights, read_weights, write_zoo_folder, zoo

CONFIG = {"scale": 2, "attention_at": (0, 8), "attention_kwargs": {"rounds": 4}}


def _state(count=11):
    return {f"layer.{i}.weight": torch.randn(7, 5, 3, 3) for i in range(count)}


@pytest.fixture
def zoos(tmp_path, monkeypatch):
    """A zoo named by the environment, and one that the package bundles; both empty."""
    outer, bundled = tmp_path / "outer", tmp_path / "site" / "sparse_attn" / "_zoo"
    outer.mkdir()
    bundled.mkdir(parents=True)
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(outer))
    monkeypatch.setattr(zoo, "__file__", str(bundled.parent / "weights" / "zoo.py"))
    return outer, bundled


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for huggingface_hub that serves `tmp_path/hub` and notes what it was asked for."""
    asked = []

    def hf_hub_download(repo_id, name, **_):
        asked.append((repo_id, name))
        return str(tmp_path / "hub" / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub", asked


def test_what_a_folder_holds(tmp_path):
    folder, state = tmp_path / "new" / "toy", _state()
    write_zoo_folder(folder, state, model="toy", config=CONFIG)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    content = (folder / "model.safetensors").read_bytes()
    assert json.loads((folder / "config.json").read_text()) == {
        "model": "toy",
        "config": {"scale": 2, "attention_at": [0, 8], "attention_kwargs": {"rounds": 4}},
        "files": {"model.safetensors": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}},
    }
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())


def test_whoever_may_read_other_files_may_read_weights(tmp_path):
    beside = tmp_path / "beside"
    beside.touch()
    write_zoo_folder(tmp_path / "model", {"w": torch.zeros(2)}, model="toy", config={})
    assert {f.stat().st_mode for f in (tmp_path / "model").iterdir()} == {beside.stat().st_mode}


@pytest.mark.parametrize("limit", [1800, 2**12, 6000])
def test_shards_are_no_larger_than_allowed_and_follow_the_hubs_index(tmp_path, limit):
    state = _state()
    write_zoo_folder(tmp_path, state, model="toy", config={}, shard_bytes=limit)
    shards = sorted(tmp_path.glob("*.safetensors"))
    count = len(shards)
    assert [p.name for p in shards] == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    assert max(p.stat().st_size for p in shards) <= limit
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in state.values())}
    assert {shard: set(load_file(tmp_path / shard)) for shard in set(index["weight_map"].values())} == {
        p.name: {name for name, shard in index["weight_map"].items() if shard == p.name} for p in shards
    }
    recorded = json.loads((tmp_path / "config.json").read_text())["files"]
    assert set(recorded) == {*(p.name for p in shards), "model.safetensors.index.json"}


def test_half_precision_halves_the_file_and_leaves_integers(tmp_path):
    state = {**_state(), "steps": torch.tensor(70_001)}
    write_zoo_folder(tmp_path, state, model="toy", config={}, dtype=torch.float16)
    stored = read_weights(tmp_path)
    assert stored["layer.0.weight"].dtype == torch.float16
    assert stored["steps"] == 70_001
    assert torch.equal(stored["layer.3.weight"], state["layer.3.weight"].half())


def test_tensors_that_share_memory_or_are_not_contiguous_are_written(tmp_path):
    weight = torch.randn(7, 5, 3, 3).to(memory_format=torch.channels_last)
    write_zoo_folder(tmp_path, {"a": weight, "b": weight, "c": weight[::2]}, model="toy", config={})
    stored = read_weights(tmp_path)
    assert torch.equal(stored["b"], weight)
    assert torch.equal(stored["c"], weight[::2])


def test_rewriting_removes_what_the_old_form_left_and_keeps_the_rest(tmp_path):
    (tmp_path / "README.md").write_text("card")
    small, large = _state(1), _state(11)
    write_zoo_folder(tmp_path, large, model="toy", config={}, shard_bytes=2**12)
    write_zoo_folder(tmp_path, small, model="toy", config={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert torch.equal(read_weights(tmp_path)["layer.0.weight"], small["layer.0.weight"])
    write_zoo_folder(tmp_path, large, model="toy", config={}, shard_bytes=2**12)
    assert not (tmp_path / "model.safetensors").exists()
    assert set(read_weights(tmp_path)) == set(large)


@pytest.mark.parametrize(
    ("state", "changes", "error", "message"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, {}, WeightsError, "a is not finite in torch.float32"),
        ({"a": torch.tensor([1e6])}, {"dtype": torch.float16}, WeightsError, "a is not finite in torch.float16"),
        ({"a": torch.zeros(999)}, {"shard_bytes": 999}, WeightsError, "a is larger than a shard, expected at most 999"),
        ({"a": torch.zeros(1)}, {"config": {"attention": torch.nn.Identity}}, ConfigError, "toy is not JSON-able"),
    ],
)
def test_what_cannot_be_shipped_is_refused_before_anything_changes(tmp_path, state, changes, error, message):
    write_zoo_folder(tmp_path, _state(1), model="toy", config={})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(error, match=message):
        write_zoo_folder(tmp_path, state, **{"model": "toy", "config": {}, **changes})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_crash_while_writing_leaves_the_old_weights(tmp_path, monkeypatch):
    old = _state(1)
    write_zoo_folder(tmp_path, old, model="toy", config={})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(zoo, "sha256", fail)
    with pytest.raises(OSError, match="disk full"):
        write_zoo_folder(tmp_path, _state(2), model="toy", config={})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_crash_between_renames_is_found_on_reading(tmp_path, monkeypatch):
    write_zoo_folder(tmp_path, _state(1), model="toy", config={})
    rename, done = os.replace, []

    def once(source, target):
        if done:
            raise OSError("killed")
        done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OSError, match="killed"):
        write_zoo_folder(tmp_path, _state(2), model="toy", config={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(WeightsError, match="has the wrong size"):
        read_weights(tmp_path)


def test_the_environments_zoo_comes_before_the_bundled_one(zoos):
    outer, bundled = zoos
    write_zoo_folder(bundled / "toy", _state(1), model="toy", config={})
    assert find_pretrained("toy") == bundled / "toy"
    write_zoo_folder(outer / "toy", _state(1), model="toy", config={})
    assert find_pretrained("toy") == outer / "toy"


def test_a_checkouts_zoo_is_used_and_a_neighbour_of_an_installation_is_not(zoos):
    _, bundled = zoos
    beside = bundled.parent.parent / "zoo"
    write_zoo_folder(beside / "toy", _state(1), model="toy", config={})
    with pytest.raises(WeightsError, match="no weights for 'toy'"):
        find_pretrained("toy")
    (beside.parent / "pyproject.toml").touch()
    assert find_pretrained("toy") == beside / "toy"


def test_a_folder_without_weights_is_not_a_source(zoos):
    outer, bundled = zoos
    (outer / "toy").mkdir()
    (outer / "toy" / "recipe.yaml").touch()
    write_zoo_folder(bundled / "toy", _state(), model="toy", config={}, shard_bytes=2**12)
    assert find_pretrained("toy") == bundled / "toy"
    assert list_pretrained() == ["toy"]


def test_the_hub_comes_last(zoos, hub):
    outer, _ = zoos
    served, asked = hub
    write_zoo_folder(served, _state(1), model="toy", config={})
    assert find_pretrained("toy", "someone/toy") == served
    assert asked == [("someone/toy", "config.json"), ("someone/toy", "model.safetensors")]
    write_zoo_folder(outer / "toy", _state(1), model="toy", config={})
    assert find_pretrained("toy", "someone/toy") == outer / "toy"
    assert len(asked) == 2


def test_with_none_the_error_says_where_it_looked_and_what_there_is(zoos):
    outer, bundled = zoos
    write_zoo_folder(outer / "other", _state(1), model="other", config={})
    write_zoo_folder(bundled / "third", _state(1), model="third", config={})
    with pytest.raises(WeightsError) as caught:
        find_pretrained("toy")
    assert str(caught.value) == (
        f"no weights for 'toy', got nothing in {outer / 'toy'}; {bundled / 'toy'}; "
        "the Hub (the model has no repository there); models with weights here: other, third; or pass checkpoint="
    )


def test_with_none_those_of_the_same_scale_and_family_are_named_first(zoos):
    outer, _ = zoos
    for other in ("edsr_baseline_x4", "edsr_x2", "nlsn_light_x2", "nlsn_light_x4"):
        write_zoo_folder(outer / other, _state(1), model=other, config={})
    with pytest.raises(WeightsError) as caught:
        find_pretrained("nlsn_x4")
    assert caught.value.remedy == (
        "models with weights here: nlsn_light_x4 (same scale), edsr_baseline_x4 (same scale), nlsn_light_x2, edsr_x2; "
        "or pass checkpoint="
    )


def test_a_hub_repository_without_weights_is_no_source(zoos, hub):
    with pytest.raises(
        WeightsError, match=r"the Hub \(someone/toy on the Hub is not a model of this package, expected"
    ):
        find_pretrained("toy", "someone/toy")


def test_without_the_hubs_package_the_reason_is_given(zoos, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        WeightsError, match=r"the Hub \(cannot get config.json of someone/toy on .*; pip install -U hugg"
    ):
        find_pretrained("toy", "someone/toy")


def test_the_file_that_holds_a_models_weights_here(zoos):
    outer, bundled = zoos
    assert local_weights("toy") is None
    write_zoo_folder(bundled / "toy", _state(), model="toy", config={}, shard_bytes=2**12)
    assert local_weights("toy") == bundled / "toy" / "model.safetensors.index.json"
    write_zoo_folder(outer / "toy", _state(1), model="toy", config={})
    assert local_weights("toy") == outer / "toy" / "model.safetensors"


def test_further_entries_of_the_configuration_cannot_replace_its_own(tmp_path):
    write_zoo_folder(tmp_path, _state(1), model="toy", config={}, more={"architecture": "toy", "model": "other"})
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["architecture"], content["model"]) == ("toy", "toy")


def test_rewriting_keeps_files_that_are_named_much_like_weights(tmp_path):
    kept = {"model_ema.safetensors", "model_backup.safetensors", "model-1-of-2.safetensors", "models.safetensors"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    write_zoo_folder(tmp_path, _state(11), model="toy", config={}, shard_bytes=2**12)
    write_zoo_folder(tmp_path, _state(1), model="toy", config={})
    assert {p.name for p in tmp_path.iterdir()} == {*kept, "config.json", "model.safetensors"}


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, "float16"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    with pytest.raises(ConfigError, match=r"bad dtype, expected torch.float64, torch.float32, .*, got"):
        write_zoo_folder(tmp_path / "new", _state(1), model="toy", config={}, dtype=dtype)
    assert not (tmp_path / "new").exists()


def test_several_writers_at_once_do_not_take_each_others_files(tmp_path):
    state = _state(1)
    # All of them are held between writing and renaming.
    together = threading.Barrier(4)

    def write(_):
        with zoo._Renames(tmp_path) as files:
            files.add("config.json", lambda path: path.write_text("{}"))
            together.wait(timeout=20)
        write_zoo_folder(tmp_path, state, model="toy", config={})

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == [None] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(read_weights(tmp_path)["layer.0.weight"], state["layer.0.weight"])
