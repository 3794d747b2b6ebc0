"""Weight files, whole and damaged."""

import json
import warnings
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from sparse_attn.errors import WeightsError
from sparse_attn.weights import read_config, read_weights, write_zoo_folder

STATE = {"conv.weight": torch.arange(210.0).reshape(2, 3, 5, 7), "conv.bias": torch.tensor([0.5, -2.0])}
SHARD = 2**12


class Payload:
    def __reduce__(self):
        return (print, ("unpickled",))


def _assert_same(got, wanted=STATE):
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


def _big():
    return {f"layer.{i}.weight": torch.randn(7, 5, 3, 3) for i in range(11)}


@pytest.fixture
def sharded(tmp_path):
    state = _big()
    write_zoo_folder(tmp_path, state, model="toy", config={}, shard_bytes=SHARD)
    return tmp_path, state


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files(tmp_path, zipped):
    path = tmp_path / "weights.pt"
    torch.save(OrderedDict(STATE), path, _use_new_zipfile_serialization=zipped)
    _assert_same(read_weights(path))
    _assert_same(read_weights(str(path)))


def test_safetensors_files(tmp_path):
    save_file(STATE, tmp_path / "any.safetensors")
    _assert_same(read_weights(tmp_path / "any.safetensors"))


def test_folders_with_and_without_a_config(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    _assert_same(read_weights(tmp_path))
    write_zoo_folder(tmp_path, STATE, model="toy", config={})
    _assert_same(read_weights(tmp_path))


def test_shards_by_folder_and_by_index(sharded):
    folder, state = sharded
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    _assert_same(read_weights(folder), state)
    _assert_same(read_weights(folder / "model.safetensors.index.json"), state)


@pytest.mark.parametrize("key", ["state_dict", "model", "params"])
def test_containers_are_opened(tmp_path, key):
    torch.save({key: {f"module.{name}": t for name, t in STATE.items()}, "epoch": 7}, tmp_path / "weights.pt")
    _assert_same(read_weights(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": STATE, "params_ema": STATE}, "holds several state dicts, got params, params_ema; pass the one"),
        ({"state_dict": STATE, "loose": torch.zeros(1)}, "is not a state dict, .* got state_dict: dict, loose: Tensor"),
        ({"mine": STATE}, "is not a state dict, expected names to tensors, alone or under state_dict, model, "),
        ({"epoch": 7}, "is not a state dict, .* got epoch: int"),
        ({}, "is not a state dict, .* got nothing"),
        ([torch.zeros(1)], "is not a state dict, expected names to tensors, got list"),
        (torch.zeros(1), "is not a state dict, expected names to tensors, got Tensor"),
    ],
)
def test_what_is_ambiguous_or_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_never_unpickled(tmp_path, capsys, zipped):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Payload()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        WeightsError, match="objects other than tensors are never unpickled: save its weights alone"
    ) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.95, 0.999])
def test_truncated_files_are_one_clear_line(tmp_path, kind, kept):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match=r"cannot read weights .*weights\..*damaged or cut short") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
def test_garbage_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>404 not found</html>" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match="cannot read weights"):
            read_weights(tmp_path / name)


def test_a_missing_file_and_an_empty_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights at .*absent.pt; check the path"):
        read_weights(tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match=r"no weights in .*expected model\.safetensors or model\.safe"):
        read_weights(tmp_path)


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_a_changed_byte_is_found(tmp_path, whole):
    write_zoo_folder(tmp_path, STATE, model="toy", config={})
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"wrong SHA-256, expected [0-9a-f]{64}, got [0-9a-f]{64}; .*get it"):
        read_weights(tmp_path if whole else path)


def test_another_size_is_found(tmp_path):
    write_zoo_folder(tmp_path, STATE, model="toy", config={})
    size = (tmp_path / "model.safetensors").stat().st_size
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(WeightsError, match=f"has the wrong size, expected {size} bytes, got 42;"):
        read_weights(tmp_path)


def test_a_changed_or_missing_shard_is_found(sharded):
    folder, _ = sharded
    shards = sorted(folder.glob("model-*.safetensors"))
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(content)
    with pytest.raises(WeightsError, match=f"{shards[1].name} has the wrong SHA-256"):
        read_weights(folder)
    shards[0].unlink()
    with pytest.raises(WeightsError, match=f"shard {shards[0].name} of .* is missing"):
        read_weights(folder)


def test_a_changed_index_is_found(sharded):
    folder, _ = sharded
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("layer", "layes", 1))
    with pytest.raises(WeightsError, match=r"index\.json has the wrong SHA-256"):
        read_weights(folder)


def test_files_of_an_older_form_are_ignored(sharded):
    folder, state = sharded
    save_file(STATE, folder / "model.safetensors")
    _assert_same(read_weights(folder), state)


def test_an_index_that_lies_or_points_elsewhere_is_refused(sharded):
    folder, _ = sharded
    (folder / "config.json").unlink()
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["weight_map"]))
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost.bias": index["weight_map"][first]}}))
    with pytest.raises(WeightsError, match=r"index\.json and its shards differ, got ghost.bias"):
        read_weights(folder)
    path.write_text(json.dumps({"weight_map": {first: "../model.safetensors"}}))
    with pytest.raises(WeightsError, match="has a bad weight_map"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot read weights .*config.json"), ("[]", "not a JSON object"), ('{"files": {"a": 1}}', "has bad files")],
)
def test_a_bad_config_is_refused(tmp_path, text, message):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path)


def test_a_config_of_another_tool_is_no_obstacle(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["Other"]}')
    _assert_same(read_weights(tmp_path))
    assert read_config(tmp_path) == {"architectures": ["Other"]}
    assert read_config(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"files": ["a"]}', '{"model": "bert", "files": {"a": 1}}'])
def test_a_config_of_somebody_else_is_no_obstacle_to_the_file_beside_it(tmp_path, text):
    save_file(STATE, tmp_path / "other.safetensors")
    (tmp_path / "config.json").write_text(text)
    _assert_same(read_weights(tmp_path / "other.safetensors"))
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "other.safetensors", recorded_only=True)


def test_a_damaged_config_beside_a_file_of_this_package_is_refused(tmp_path):
    write_zoo_folder(tmp_path, STATE, model="toy", config={})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"cannot read weights .*config\.json"):
        read_weights(tmp_path / "model.safetensors")


def test_json_that_nests_deeper_than_python_goes_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(WeightsError, match=r"cannot read weights .*config\.json"):
        read_config(tmp_path)
