"""A zoo of tiny models with random weights, pictures, and the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from sparse_attn.cli import app
from sparse_attn.factory import create_model
from sparse_attn.imaging import Photo, resize, write_image
from sparse_attn.weights import write_zoo_folder

TINY = {"n_resblocks": 1, "n_feats": 8, "attention": None, "attention_at": []}


class Outcome:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out = code, out
        self.errors = err.splitlines()
        assert "Traceback" not in err


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nlsn_light_x2` and `_x4`, whose recorded configuration makes them tiny."""
    root = tmp_path_factory.mktemp("zoo")
    for scale in (2, 4):
        name = f"nlsn_light_x{scale}"
        model = create_model(name, **TINY)
        write_zoo_folder(root / name, model.state_dict(), model=name, config=TINY)
    return root


@pytest.fixture
def zoo(zoo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(zoo_folder))
    return zoo_folder


@pytest.fixture
def command(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `sparse-attn` with these words, in an empty folder; anything but an orderly end is raised."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Outcome:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


def pixels(height: int, width: int, *, grey: bool = False, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9) if grey else (7, 9, 3)).astype(np.float64)
    return np.clip(resize(noise, size=(height, width)), 0, 255).astype(np.uint8)


def picture(path: Path, height: int = 11, width: int = 13, *, grey: bool = False, seed: int = 0) -> Path:
    """Writes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Photo(pixels(height, width, grey=grey, seed=seed)))
    return path


def files(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
