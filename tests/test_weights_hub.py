"""Models from the Hugging Face Hub and onto it, against a Hub in miniature on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from sparse_attn.attention import configure_attention
from sparse_attn.backbones import models, register_model
from sparse_attn.errors import UnknownNameError, WeightsError
from sparse_attn.factory import create_model, push_to_hub, save_pretrained
from sparse_attn.weights import find_pretrained, zoo
from tests.hub_server import Hub, Repo

ROOT = Path(__file__).resolve().parent.parent
NAME = "someone/small"
# huggingface_hub hands its files to its HTTP client in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
SMALL = {"n_resblocks": 2, "n_feats": 8, "attention_at": [0, 2], "attention_kwargs": {"bucket_size": 9, "rounds": 2}}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub, an empty cache, nobody logged in."""
    with Hub() as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        yield server


@pytest.fixture
def model():
    return create_model("nlsn_light_x2", **SMALL).eval()


@pytest.fixture
def shared(hub, model, tmp_path):
    """A repository on the Hub that holds `model`."""
    save_pretrained(model, tmp_path / "shared")
    repo = hub.repos[NAME] = Repo()
    repo.commit({file.name: file.read_bytes() for file in (tmp_path / "shared").iterdir()})
    return repo


def assert_same(first, second):
    x = torch.rand(1, 3, 11, 13)
    with torch.no_grad():
        assert torch.equal(first.eval()(x), second.eval()(x))


def refusal(*args, **kwargs):
    with pytest.raises(WeightsError) as caught:
        create_model(*args, **kwargs)
    return str(caught.value)


def test_a_model_is_built_from_the_hub_as_it_was_shared(shared, model):
    loaded = create_model(f"hf-hub:{NAME}", pretrained=True)
    assert loaded.training
    assert_same(loaded, model)


def test_without_pretrained_only_the_configuration_is_fetched(hub, shared, model):
    built = create_model(f"hf-hub:{NAME}")
    assert {n: t.shape for n, t in built.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert not torch.equal(built.head.weight, model.head.weight)
    assert {request.path.rpartition("/")[2] for request in hub.requests} == {"config.json"}


def test_arguments_override_what_the_hub_says(shared, model):
    loaded = create_model(f"hf-hub:{NAME}", pretrained=True, attention="nla", dtype=torch.float64)
    assert {type(block).__name__ for block in loaded.body.attention.values()} == {"NonLocalAttention"}
    assert loaded.head.weight.dtype == torch.float64
    assert torch.equal(loaded.head.weight, model.head.weight.double())
    assert "do not fit with n_feats changed" in refusal(f"hf-hub:{NAME}", pretrained=True, n_feats=12)


def test_what_is_in_the_cache_is_not_fetched_again(hub, shared, model):
    create_model(f"hf-hub:{NAME}", pretrained=True)
    assert len(hub.asked("GET", "model.safetensors")) == 1
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True), model)
    assert len(hub.asked("GET", "")) == 2
    before = len(hub.requests)
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True, local_files_only=True), model)
    assert len(hub.requests) == before


def test_the_environment_says_where_the_hub_is_and_that_it_is_not_to_be_asked(hub, shared, tmp_path):
    code = (
        "import sys, sparse_attn; m = sparse_attn.create_model(sys.argv[1], pretrained=True);"
        "print(float(m.head.weight.double().sum()))"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(**changes):
        command = [sys.executable, "-c", code, f"hf-hub:{NAME}"]
        return subprocess.run(command, env={**environment, **changes}, cwd=ROOT, capture_output=True, text=True)

    online = run()
    assert online.returncode == 0, online.stderr
    assert hub.asked("GET", "model.safetensors")
    before = len(hub.requests)
    assert run(HF_HUB_OFFLINE="1").stdout == online.stdout
    assert len(hub.requests) == before


def test_what_was_never_fetched_cannot_be_had_offline(shared, monkeypatch):
    asked = f"cannot get config.json of {NAME} on the Hub, got it is not in the cache, and offline; get it once while"
    assert asked in refusal(f"hf-hub:{NAME}", local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert asked in refusal(f"hf-hub:{NAME}", pretrained=True)


def test_a_revision_is_a_branch_or_a_commit(hub, shared, tmp_path):
    first = shared.branches["main"]
    other = create_model("nlsn_light_x2", **SMALL)
    save_pretrained(other, tmp_path / "other")
    shared.commit({file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()}, "better")
    assert_same(create_model(f"hf-hub:{NAME}@better", pretrained=True), other)
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True, revision="better"), other)
    shared.branches["main"] = shared.branches["better"]
    old = create_model(f"hf-hub:{NAME}@{first}", pretrained=True)
    assert not torch.equal(old.head.weight, other.head.weight)


def test_weights_are_of_the_commit_that_the_configuration_is_of(hub, shared, model, monkeypatch):
    served = hub._send

    def then_move(call, content, headers, *args, **kwargs):
        served(call, content, headers, *args, **kwargs)
        if call.command == "GET" and call.path.endswith("config.json"):
            shared.commit({"config.json": content, "model.safetensors": b"newer"})

    monkeypatch.setattr(hub, "_send", then_move)
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True), model)


def test_the_token_is_sent_and_private_repositories_need_it(hub, shared, model):
    shared.private = True
    remedy = "got no such repository, or a private one; check the name; for a private repository pass token=, or log in"
    assert f"cannot get config.json of {NAME} on the Hub, {remedy}" in refusal(f"hf-hub:{NAME}", pretrained=True)
    assert "got access denied (403); pass a token= that has the right" in refusal(f"hf-hub:{NAME}", token="hf_wrong")
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True, token=hub.token), model)
    assert hub.requests[-1].token == hub.token
    assert "token=True, and nobody is logged in" in refusal(f"hf-hub:{NAME}", token=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:someone/absent", "config.json of someone/absent on the Hub, got no such repository, or a private one"),
        (f"hf-hub:{NAME}@absent", "got no revision 'absent'; see the branches and tags on its page"),
        ("hf-hub:some/one/else", "on the Hub, got Repo id must be in the form"),
        ("hf-hub:", "on the Hub, got Repo id must"),
    ],
)
def test_what_is_not_there_is_one_clear_error(shared, name, message):
    assert message in refusal(name, pretrained=True)


def test_a_gated_repository_says_so(shared):
    shared.gated = True
    assert "got it asks for consent; accept its terms on its page, then" in refusal(f"hf-hub:{NAME}", pretrained=True)


def test_without_a_connection_the_error_says_what_to_check(hub, monkeypatch):
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert "; check the connection, and HF_ENDPOINT where it is set" in refusal(f"hf-hub:{NAME}", pretrained=True)


def test_a_repository_of_another_package_is_refused_before_its_weights_are_fetched(hub):
    repo = hub.repos[NAME] = Repo()
    repo.commit({"config.json": b'{"architecture": "resnet50"}', "model.safetensors": bytes(99)})
    message = refusal(f"hf-hub:{NAME}", pretrained=True)
    assert f"{NAME} on the Hub is not a model of this package, expected a config.json" in message
    assert "got architecture; check the name" in message
    repo.commit({"README.md": b""})
    assert "got no such file in it; check" in refusal(f"hf-hub:{NAME}", pretrained=True)
    assert not hub.asked("GET", "safetensors")


def test_a_model_that_is_not_registered_here_is_said(hub, shared, monkeypatch):
    monkeypatch.setattr(models, "_entries", {"edsr_x2": models.get("edsr_x2")})
    with pytest.raises(
        UnknownNameError, match=f"hf-hub:{NAME} holds a model that is not registered .* 'nlsn_light_x2'"
    ):
        create_model(f"hf-hub:{NAME}")


def test_an_interrupted_download_goes_on_where_it_broke_off(hub, shared, model, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.cut["model.safetensors"] = [5000, 3000]
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True), model)
    ranges = [request.range for request in hub.asked("GET", "model.safetensors")]
    assert ranges[0] is None and len(ranges) == 3
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges[1:]]
    assert 0 < starts[0] <= 5000 < starts[1] <= 8000


def test_weights_with_another_checksum_are_refused_with_what_to_delete(hub, shared, tmp_path):
    files = shared.commits[shared.branches["main"]]
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    shared.commit({**files, "model.safetensors": bytes(content)})
    message = refusal(f"hf-hub:{NAME}", pretrained=True)
    assert "model.safetensors has the wrong SHA-256, expected " in message
    cached = tmp_path / "cache" / "models--someone--small"
    assert cached.is_dir()
    assert message.endswith(f"; delete {cached} and get it again; if it is refused again, tell the owner of {NAME}")


def test_a_registered_models_repository_is_the_last_place_to_look(hub, shared, model, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [tmp_path / "empty"])
    monkeypatch.setattr(models, "_entries", dict(models._entries))
    register_model("small_x2", models.get("nlsn_light_x2").builder, hub_id=NAME, scale=2, attention="nlsa")
    assert "does not hold small_x2, expected config.json with model 'small_x2', got nlsn_light_x2" in refusal(
        "small_x2", pretrained=True
    )
    files = shared.commits[shared.branches["main"]]
    config = json.loads(files["config.json"])
    shared.commit({**files, "config.json": json.dumps({**config, "model": "small_x2"}).encode()})
    assert_same(create_model("small_x2", pretrained=True), model)
    with pytest.raises(
        WeightsError, match=r"empty/small_x2; the Hub \(cannot get config.json of someone/absent on the"
    ):
        find_pretrained("small_x2", "someone/absent")


@pytest.mark.parametrize("large", [(".safetensors",), ()], ids=["large file storage", "in the commit"])
def test_what_is_pushed_comes_back_the_same(hub, model, large):
    hub.large = large
    configure_attention(model, rounds=3)
    commit = push_to_hub(model, NAME, token=hub.token, private=True, commit_message="The first", license_id="mit")
    repo = hub.repos[NAME]
    assert repo.private and commit.oid == repo.branches["main"] and commit.commit_message == "The first"
    assert sorted(repo.commits[commit.oid]) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert bool(hub.stored) == bool(large)
    loaded = create_model(f"hf-hub:{NAME}", pretrained=True, token=hub.token)
    assert_same(loaded, model)
    assert {block.rounds for block in loaded.body.attention.values()} == {3}
    push_to_hub(loaded, NAME, token=hub.token)
    assert_same(create_model(f"hf-hub:{NAME}", pretrained=True, token=hub.token), model)


def test_a_card_says_how_to_load_it_and_stays_once_somebody_wrote_one(hub, model):
    push_to_hub(model, NAME, token=hub.token, license_id="mit")
    repo = hub.repos[NAME]
    _, front, body = repo.commits[repo.branches["main"]]["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "sparse-attn",
        "pipeline_tag": "image-to-image",
        "license": "mit",
        "tags": ["super-resolution", "nlsa-attention"],
    }
    assert f'sparse_attn.create_model("hf-hub:{NAME}", pretrained=True)' in body
    assert '"bucket_size": 9' in body and "enlarges pictures 2 times" in body
    repo.commit({**repo.commits[repo.branches["main"]], "README.md": b"mine"})
    push_to_hub(create_model("nlsn_light_x2", **SMALL), NAME, token=hub.token)
    assert repo.commits[repo.branches["main"]]["README.md"] == b"mine"
    push_to_hub(model, NAME, token=hub.token, card="theirs")
    assert repo.commits[repo.branches["main"]]["README.md"] == b"theirs"


def test_weights_of_an_older_form_are_taken_away(hub, model):
    repo = hub.repos[NAME] = Repo()
    repo.commit(
        {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.txt": b"keep"}
    )
    push_to_hub(model, NAME, token=hub.token)
    held = set(repo.commits[repo.branches["main"]])
    assert held == {"README.md", "config.json", "model.safetensors", "notes.txt"}


def test_a_branch_is_made_and_a_pull_request_proposed(hub, model):
    push_to_hub(model, NAME, token=hub.token)
    first = hub.repos[NAME].branches["main"]
    other = create_model("nlsn_light_x2", **SMALL)
    push_to_hub(other, NAME, token=hub.token, revision="trial")
    assert_same(create_model(f"hf-hub:{NAME}@trial", pretrained=True), other)
    proposal = push_to_hub(other, NAME, token=hub.token, create_pr=True)
    assert proposal.pr_url == f"{hub.url}/{NAME}/discussions/1"
    assert hub.repos[NAME].branches["main"] == first


def test_who_may_not_write_is_told(hub, model):
    for token in (None, "hf_wrong"):
        with pytest.raises(WeightsError, match=f"cannot write to {NAME} on the Hub, got .*token"):
            push_to_hub(model, NAME, token=token)
    assert hub.repos == {}


@pytest.mark.parametrize("name", ["notes.txt", "../model.safetensors", "model.bin", "sub/model.safetensors"])
def test_nothing_but_weights_is_fetched_whatever_the_configuration_records(hub, shared, name):
    files = shared.commits[shared.branches["main"]]
    config = json.loads(files["config.json"])
    config["files"][name] = {"sha256": "0", "bytes": 1}
    shared.commit({**files, "config.json": json.dumps(config).encode()})
    assert "records files that are not weights, expected model.safetensors, or its shards and " in refusal(
        f"hf-hub:{NAME}", pretrained=True
    )
    assert {request.path.rpartition("/")[2] for request in hub.requests} == {"config.json"}


def test_files_named_much_like_weights_stay_on_the_hub(hub, model):
    repo = hub.repos[NAME] = Repo()
    repo.commit({"model_ema.safetensors": b"keep", "model-00001-of-00002.safetensors": b"old"})
    push_to_hub(model, NAME, token=hub.token)
    held = set(repo.commits[repo.branches["main"]])
    assert held == {"README.md", "config.json", "model.safetensors", "model_ema.safetensors"}
