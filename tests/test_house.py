"""The house itself: public names, floors, the cost of importing it, its pages, and adding an attention in one file."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sparse_attn

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"timm", "huggingface_hub", "matplotlib", "triton"}
LONGEST_FILE = 300
EXAMPLE = re.compile(r"^Put this into `(.+?)`.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of this environment, with the package of `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def docs_module(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of `docs/`."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module


@pytest.fixture(scope="module")
def extended_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the house with one file more: the example of CONTRIBUTING.md."""
    house = tmp_path_factory.mktemp("house")
    for folder in ("sparse_attn", "docs", "zoo"):
        shutil.copytree(ROOT / folder, house / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "attention", house / "tests" / "attention")
    for file in ("mkdocs.yml", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, house)
    for file in ("__init__.py", "conftest.py", "tolerances.py"):
        shutil.copy(ROOT / "tests" / file, house / "tests")
    found = EXAMPLE.search((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert found is not None
    (house / found[1]).write_text(found[2], encoding="utf-8")
    return house


def test_public_names_are_frozen() -> None:
    frozen = json.loads((ROOT / "tests" / "public_names.json").read_text(encoding="utf-8"))
    assert sorted(sparse_attn.__all__) == frozen["sparse_attn"]
    assert all(hasattr(sparse_attn, name) for name in frozen["sparse_attn"])


def test_import_brings_nothing_heavy_that_torch_does_not() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import sparse_attn; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    result = run("-c", code, folder=ROOT)
    assert result.returncode == 0, result.stderr
    brought = set(result.stdout.split())
    assert "sparse_attn" in brought
    assert not brought & HEAVY


def test_no_file_has_grown_into_two_rooms() -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in (ROOT / "sparse_attn").rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_public_name_and_attention_has_its_place_in_the_docs(docs_module) -> None:
    pages: ModuleType = docs_module("pages")
    attentions_page, python_page = pages.attentions_page(), pages.python_page()
    for name in sparse_attn.list_attention():
        assert f"## {name} " in attentions_page
    for name in set(sparse_attn.__all__) - {"Attention2d", "__version__"}:
        assert re.search(rf"^::: .*\.{name}$", python_page, re.MULTILINE), name


def test_readme_has_the_figures_of_the_zoo(docs_module) -> None:
    zoo_table: ModuleType = docs_module("zoo_table")
    text = zoo_table.README.read_text(encoding="utf-8")
    assert "<!-- zoo:begin -->" in text
    assert zoo_table.readme_with_table(text) == text, "run: python docs/zoo_table.py --readme"


def test_zoo_table_shows_models_and_baselines(tmp_path: Path, docs_module) -> None:
    folder = tmp_path / "edsr_baseline_x2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": folder.name, "config": {}, "files": {}}))
    record = {"model": folder.name, "scale": 2, "folder": "data/eval/Set5/x2", "psnr": 37.456, "ssim": 0.95}
    baseline = {**record, "model": "bicubic", "psnr": 33.66, "folder": "data/kodak/"}
    (folder / "results.json").write_text(json.dumps([record, baseline]))
    lines = docs_module("zoo_table").zoo_table(tmp_path).splitlines()
    assert lines[0] == "| model | scale | parameters | Set5 | Kodak |"
    assert lines[2] == "| bicubic | ×2 |  |  | 33.66 / 0.9500 |"
    assert lines[3] == "| `edsr_baseline_x2` | ×2 | 1,369,859 | 37.46 / 0.9500 |  |"


def test_wheel_bundles_small_models_only(tmp_path: Path) -> None:
    hatch_build: ModuleType = importlib.import_module("hatch_build")
    for name, size in {"small": 10, "large": hatch_build.LARGEST_BUNDLED}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "log.jsonl").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(bytes(size))
    (tmp_path / "ablations" / "scales").mkdir(parents=True)
    (tmp_path / "ablations" / "scales" / "tiny.yaml").write_text("")
    bundled = [file.relative_to(tmp_path).as_posix() for file in hatch_build.bundled_files(tmp_path)]
    assert bundled == ["small/config.json", "small/model.safetensors", "ablations/scales/tiny.yaml"]


def test_floors_are_enforced(extended_house: Path, tmp_path: Path) -> None:
    house = shutil.copytree(extended_house, tmp_path / "house")
    lint = ("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")
    good = run(*lint, folder=house)
    assert good.returncode == 0, good.stdout
    (house / "sparse_attn" / "layers" / "upstairs.py").write_text("import sparse_attn.ops\n")
    (house / "sparse_attn" / "layers" / "root.py").write_text("from sparse_attn import __version__\n")
    bad = run(*lint, folder=house)
    assert bad.returncode == 1
    assert "sparse_attn.layers.upstairs -> sparse_attn.ops" in bad.stdout
    assert "sparse_attn.layers.root -> sparse_attn" in bad.stdout


def contract_tests(house: Path, which: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "pytest", "tests/attention/test_contract.py", "-k", which, "-p", "no:cacheprovider", folder=house)


@pytest.mark.slow
def test_the_example_keeps_the_whole_contract(extended_house: Path) -> None:
    tested = contract_tests(extended_house, "similar_length")
    assert tested.returncode == 0, tested.stdout


def test_one_file_adds_an_attention_everywhere(extended_house: Path) -> None:
    listed = run("-c", "import sparse_attn; print(*sparse_attn.list_attention())", folder=extended_house)
    assert "similar_length" in listed.stdout.split(), listed.stderr
    command = run("-m", "sparse_attn.cli", "attentions", folder=extended_house)
    assert "similar_length" in command.stdout, command.stderr
    tested = contract_tests(extended_house, "similar_length and full_size")
    assert tested.returncode == 0, tested.stdout
    built = run("-m", "mkdocs", "build", "--strict", folder=extended_house)
    assert built.returncode == 0, built.stderr
    page = (extended_house / "site" / "reference" / "attentions.html").read_text(encoding="utf-8")
    assert 'id="similar_length"' in page
    assert "Attention among pixels whose queries are about equally long." in page
