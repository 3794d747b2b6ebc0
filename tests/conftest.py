"""Where the reference tensors and benchmark images are, and the seeds every test starts from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Before anything imports Triton: without a GPU its kernels run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")

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


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
