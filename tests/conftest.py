"""Where the reference tensors, the benchmark images and a browser are, and the seeds every test starts from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Before anything imports Triton: without a GPU its kernels run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests start with nothing built and nothing unpacked, whatever the user's own cache holds.
_CACHE = tempfile.TemporaryDirectory(prefix="sparse-attn-tests-")
os.environ["SPARSE_ATTN_CACHE"] = _CACHE.name

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHECKOUT = Path(__file__).resolve().parent.parent


def _folder(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable, CHECKOUT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"no {name} folder at {folder}: set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of tensors made with the original authors' code."""
    return _folder("SPARSE_ATTN_REFERENCE", "reference")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of benchmark, validation and training images."""
    return _folder("SPARSE_ATTN_DATA", "data")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright; without either, tests that need one are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to run this test")
    found = os.environ.get("SPARSE_ATTN_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium: install one, or set SPARSE_ATTN_CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
