"""`sparse-attn import`: a folder that computes what the original does, or a reason and nothing."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_attn.backbones import EDSR
from sparse_attn.factory import create_model, save_pretrained
from sparse_attn.weights import read_weights
from sparse_attn.weights.layouts import authors_state_dict
from tests.backbones.originals import assert_near, assert_same_network, read_original
from tests.cli.conftest import Command, files
from tests.tolerances import RELATIVE
from tests.twins import basicsr_edsr, basicsr_rcan, discriminator, saved

WRITTEN = {"README.md", "config.json", "model.safetensors"}


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def test_a_checkpoint_of_basicsr(command: Command, tmp_path: Path) -> None:
    theirs = basicsr_edsr(scale=2, width=6, blocks=3).eval()
    content = {"params": basicsr_edsr().state_dict(), "params_ema": theirs.state_dict()}
    file = saved(tmp_path / "dl" / "EDSR_Mx2.pth", content)
    outcome = command("import", "dl/EDSR_Mx2.pth")
    assert (outcome.code, outcome.errors) == (0, [])
    lines = outcome.out.splitlines()
    assert lines[0] == (
        "dl/EDSR_Mx2.pth: BasicSR's EDSR, under params_ema, x2, 3 blocks, 6 wide, 3 colours of 0 to 255"
    )
    assert [line.partition(":")[0] for line in lines[1:4]] == ["assumed", "assumed", "left out"]
    assert lines[4].startswith("wrote dl/EDSR_Mx2: edsr_baseline_x2, ")
    folder = tmp_path / "dl" / "EDSR_Mx2"
    assert files(folder) == WRITTEN
    card = (folder / "README.md").read_text()
    assert "license: unknown" in card and "`EDSR_Mx2.pth`" in card and "params: 20 tensors" in card
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card and "res_scale is 1" in card
    assert str(tmp_path) not in card
    x = torch.rand(1, 3, 7, 11)
    recorded = json.loads((folder / "config.json").read_text())
    models = [
        create_model(f"local-dir:{folder}", pretrained=True),
        create_model(recorded["model"], checkpoint=folder, **recorded["config"]),
    ]
    namespace: dict[str, Any] = {}
    exec("import sparse_attn\n" + "\n".join(lines[5:]), namespace)
    for model in [*models, namespace["model"]]:
        with torch.no_grad():
            assert_near(model.eval()(x * 255) / 255, theirs(x), RELATIVE["float32"])


@pytest.mark.parametrize("name", ["nlsn_ckpt_x2", "nlsn_ckpt_x3_legacy"])
def test_checkpoints_made_by_the_authors_nlsn(command: Command, tmp_path: Path, reference_dir: Path, name: str) -> None:
    assert command("import", reference_dir / f"{name}.pt", "-o", "new/nlsn", "--res-scale", 0.1).code == 0
    original = read_original(reference_dir, name)
    hyper = original.hyper
    buckets = {"bucket_size": hyper["chunk_size"], "rounds": hyper["n_hashes"]}
    model = create_model("local-dir:new/nlsn", pretrained=True, attention_kwargs=buckets)
    assert (model.body.attention["0"].boundary, list(model.body.attention)) == ("repeat", ["0", "8"])
    assert_same_network(model, original, torch.float64)


@pytest.mark.parametrize(
    ("content", "words", "model"),
    [
        (authors_state_dict(EDSR(scale=3, n_resblocks=2, n_feats=8, rgb_range=255)), (), "edsr_baseline_x3"),
        ({"params": basicsr_edsr(width=48, blocks=30).state_dict()}, ("--res-scale", 0.1), "edsr_x2"),
        ({"generator": basicsr_rcan(scale=8).state_dict(), "d": discriminator().state_dict()}, ("--key", "generator"),
         "rcan_x2"),
        (basicsr_edsr().state_dict(), ("--name", "edsr_x2", "--rgb-range", 1), "edsr_x2"),
    ],
    ids=["authors", "near", "key", "name"],
)  # fmt: skip
def test_the_nearest_registered_model_and_the_options(
    command: Command, tmp_path: Path, content: object, words: tuple[object, ...], model: str
) -> None:
    saved(tmp_path / "x.pt", content)
    outcome = command("import", "x.pt", *words)
    assert (outcome.code, outcome.errors) == (0, [])
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["model"] == model
    built = create_model("local-dir:x", pretrained=True)
    assert (built.scale, built.rgb_range) == (config["config"]["scale"], 1.0 if "--rgb-range" in words else 255.0)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_stored_dtypes(command: Command, tmp_path: Path, dtype: str | None) -> None:
    weights = basicsr_edsr().double().state_dict()
    saved(tmp_path / "x.pt", weights)
    assert command("import", "x.pt", *(["--dtype", dtype] if dtype else [])).code == 0
    got = read_weights(tmp_path / "x")["head.weight"]
    assert torch.equal(got, weights["conv_first.weight"].to(getattr(torch, dtype or "float64")))


def test_a_value_too_large_for_the_dtype_writes_nothing(command: Command, tmp_path: Path) -> None:
    weights = basicsr_edsr().state_dict()
    weights["conv_last.bias"] = torch.full((3,), 1e6)
    saved(tmp_path / "x.pt", weights)
    outcome = command("import", "x.pt", "--dtype", "float16")
    assert outcome.code == 1 and "not finite in torch.float16" in outcome.errors[0]
    assert files(tmp_path) == {"x.pt"}


def test_what_is_there_is_kept_unless_it_is_an_import_and_told_to(command: Command, tmp_path: Path) -> None:
    saved(tmp_path / "x.pt", basicsr_edsr(blocks=1).state_dict())
    saved(tmp_path / "y.pt", basicsr_edsr(blocks=2).state_dict())
    (tmp_path / "m").mkdir()
    assert command("import", "x.pt", "-o", "m").code == 0
    before = read_weights(tmp_path / "m")
    outcome = command("import", "y.pt", "-o", "m")
    assert outcome.code == 1
    assert outcome.errors == ["error: m exists; choose another with --out, or replace it with --overwrite"]
    assert set(read_weights(tmp_path / "m")) == set(before)
    assert command("import", "y.pt", "-o", "m", "--overwrite").code == 0
    assert "body.blocks.1.body.0.weight" in read_weights(tmp_path / "m")
    (tmp_path / "m" / "recipe.yaml").touch()
    outcome = command("import", "x.pt", "-o", "m", "--overwrite")
    assert outcome.code == 1 and "m is not replaced, expected nothing but a model, got recipe.yaml" in outcome.errors[0]
    outcome = command("import", "x.pt", "-o", "y.pt", "--overwrite")
    assert outcome.code == 1 and "y.pt is a file" in outcome.errors[0]
    assert files(tmp_path) == {"x.pt", "y.pt", "m/recipe.yaml", *(f"m/{name}" for name in WRITTEN)}


def test_a_failed_replacement_leaves_the_old_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "x.pt", basicsr_edsr(blocks=1).state_dict())
    assert command("import", "x.pt").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    outcome = command("import", "x.pt", "--overwrite", "--rgb-range", 1)
    assert outcome.code == 1 and outcome.errors == [
        f"error: cannot write {tmp_path / 'x'}, got No space left on device; choose another with --out"
    ]
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before
    assert files(tmp_path) == {"x.pt", *(f"x/{name}" for name in WRITTEN)}


def _cut(path: Path) -> None:
    saved(path, basicsr_edsr().state_dict())
    path.write_bytes(path.read_bytes()[:5000])


def _without_a_block(path: Path) -> None:
    weights = basicsr_edsr().state_dict()
    saved(path, {name: t for name, t in weights.items() if not name.startswith("body.1.")})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no weights at x.pth; check the path"),
        (lambda path: path.mkdir(), "x.pth is a folder, expected a checkpoint file"),
        (lambda path: path.touch(), "an empty file"),
        (_cut, "breaks off or is of another format (OSError)"),
        (lambda path: path.write_text("<html>404</html>"), "a web page"),
        (lambda path: saved(path, {"state_dict": Payload()}), "got an object of print; "),
        (lambda path: saved(path, {"state": {}, "param_groups": []}), "the state of an optimizer, not a network"),
        (lambda path: saved(path, discriminator().state_dict()), "it looks like a discriminator"),
        (lambda path: saved(path, {"a.weight": torch.zeros(2)}), "nearest is the authors' layout, of which it lacks"),
        (_without_a_block, "missing: body.1.conv1.weight, body.1.conv1.bias, body.1.conv2.weight, body.1.conv2.bias"),
    ],
    ids=["absent", "folder", "empty", "cut", "html", "code", "optimizer", "stranger", "unknown", "partial"],
)
def test_what_cannot_be_imported_is_one_line_and_nothing_is_written(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, reason: str
) -> None:
    make(tmp_path / "x.pth")
    before = files(tmp_path)
    outcome = command("import", "x.pth", "--out", "new/model")
    assert (outcome.code, len(outcome.errors), outcome.out) == (1, 1, "")
    assert reason in outcome.errors[0]
    assert files(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--name", "edsr_y2"), "unknown model 'edsr_y2'"),
        (("--name", "rcan_x2"), "rcan_x2 is another network than that of the file"),
        (("--rgb-range", -1), "bad rgb_range, expected a positive number, got -1"),
        (("--key", "generator"), "x.pt has no 'generator', expected one of conv_first, body"),
    ],
)
def test_bad_options(command: Command, tmp_path: Path, words: tuple[object, ...], reason: str) -> None:
    saved(tmp_path / "x.pt", basicsr_edsr().state_dict())
    outcome = command("import", "x.pt", *words)
    assert outcome.code == 1 and reason in outcome.errors[0]
    assert files(tmp_path) == {"x.pt"}


def test_a_file_without_an_ending_is_not_its_own_folder(command: Command, tmp_path: Path) -> None:
    saved(tmp_path / "weights", basicsr_edsr().state_dict())
    assert command("import", "weights").code == 0
    assert files(tmp_path) == {"weights", *(f"weights_imported/{name}" for name in WRITTEN)}


def test_a_model_that_no_import_wrote_is_never_replaced(command: Command, tmp_path: Path) -> None:
    saved(tmp_path / "x.pt", basicsr_edsr(blocks=1).state_dict())
    save_pretrained(create_model("edsr_baseline_x2", n_resblocks=1, n_feats=8), tmp_path / "mine")
    assert command("import", "x.pt").code == 0
    (tmp_path / "x" / "model_best.safetensors").touch()
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    outcome = command("import", "x.pt", "-o", "mine", "--overwrite")
    assert outcome.code == 1 and "mine is not replaced: no import wrote it" in outcome.errors[0]
    outcome = command("import", "x.pt", "-o", "x", "--overwrite")
    assert outcome.code == 1 and outcome.errors[0].endswith("got model_best.safetensors; use --out")
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before


def test_into_the_current_folder_and_through_a_link(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "x.pt", basicsr_edsr(blocks=1).state_dict())
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("there")
    assert command("import", "x.pt", "-o", "link").code == 0
    assert command("import", "x.pt", "-o", "link", "--overwrite").code == 0
    assert (tmp_path / "link").readlink() == Path("there")
    monkeypatch.chdir(tmp_path / "here")
    assert command("import", "../x.pt", "-o", ".").code == 0
    assert "# here\n" in (tmp_path / "here" / "README.md").read_text()
    written = {f"{folder}/{name}" for folder in ("here", "there") for name in WRITTEN}
    assert {path for path in files(tmp_path) if not path.startswith("link/")} == {"x.pt", *written}


def test_a_file_name_that_is_no_text(command: Command, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.pt")
    saved(tmp_path / name, basicsr_edsr(blocks=1).state_dict())
    outcome = command("import", name)
    assert (outcome.code, outcome.errors) == (0, [])
    assert "caf?.pt: BasicSR's EDSR" in outcome.out
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    assert "# caf?\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((folder / "config.json").read_text())["imported"]["source"] == "caf?.pt"
    namespace: dict[str, Any] = {}
    exec("import sparse_attn\n" + "\n".join(outcome.out.splitlines()[-3:]), namespace)
    assert len(namespace["model"].body.blocks) == 1


def test_keys_of_a_checkpoint_are_shown_in_the_card_and_do_nothing(command: Command, tmp_path: Path) -> None:
    key = "a | b\n\n# <img src=x>\x1b[31m"
    saved(tmp_path / "x.pt", {"net": basicsr_edsr().state_dict(), key: basicsr_edsr(blocks=1).state_dict()})
    outcome = command("import", "x.pt", "--key", "net")
    assert outcome.code == 0 and "\x1b" not in outcome.out
    (row,) = [line for line in (tmp_path / "x" / "README.md").read_text().splitlines() if "left out" in line]
    assert row.startswith(r"| left out | a \| b??# \<img src=x\>?\[31m: 12 tensors, taken instead with --key a \| b")


def test_timm_finds_an_imported_model(command: Command, tmp_path: Path) -> None:
    saved(tmp_path / "x.pt", basicsr_edsr(blocks=1).state_dict())
    assert command("import", "x.pt").code == 0
    timm = pytest.importorskip("timm")
    importlib.import_module("sparse_attn.timm_models")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["architecture"], config["pretrained_cfg"]) == (config["model"], {})
    built = timm.create_model(f"local-dir:{tmp_path / 'x'}")
    assert type(built).__name__.startswith("EDSR")
    assert "library_name: sparse-attn\n" in (tmp_path / "x" / "README.md").read_text()


def test_a_name_for_another_network_is_refused(command: Command, tmp_path: Path) -> None:
    saved(tmp_path / "edsr.pth", basicsr_edsr(scale=2).state_dict())
    for name in ("edsr_x3", "nlsn_x2", "rcan_x2"):
        outcome = command("import", "edsr.pth", "--name", name)
        assert outcome.code == 1 and files(tmp_path) == {"edsr.pth"}
        assert outcome.errors == [
            f"error: {name} is another network than that of the file, expected a name for EDSR x2, such as "
            "edsr_baseline_x2; drop --name"
        ]
    assert command("import", "edsr.pth", "--name", "edsr_x2").code == 0
    assert json.loads((tmp_path / "edsr" / "config.json").read_text())["model"] == "edsr_x2"


def test_a_folder_is_no_checkpoint(command: Command, tmp_path: Path) -> None:
    for folder in (".", str(tmp_path)):
        outcome = command("import", folder)
        assert (outcome.code, outcome.errors) == (
            1,
            [f"error: {folder} is a folder, expected a checkpoint file; name the file in it"],
        )


def test_a_place_that_cannot_be_written(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "edsr.pth", basicsr_edsr(scale=2).state_dict())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", ".0f.new")

    monkeypatch.setattr("sparse_attn.weights.imported.write_zoo_folder", refuse)
    (tmp_path / "empty").mkdir()
    for target in ("new", "empty"):
        outcome = command("import", "edsr.pth", "-o", target)
        assert outcome.code == 1 and len(outcome.errors) == 1
        assert outcome.errors[0].startswith("error: cannot write ")
        assert outcome.errors[0].endswith(f"{target}, got Permission denied; choose another with --out")
    assert files(tmp_path) == {"edsr.pth"} and not (tmp_path / "new").exists()
