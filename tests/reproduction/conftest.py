"""The toy, for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_attn.reproduction import Effort
from sparse_attn.training import load_recipe
from tests.reproduction.support import make_data, make_recipe


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path / "cache"))
    return make_data(tmp_path / "data")


@pytest.fixture
def effort(data: Path) -> Effort:
    return Effort(scale="toy", recipe=load_recipe(make_recipe(data / "toy.yaml")), seeds=1)
