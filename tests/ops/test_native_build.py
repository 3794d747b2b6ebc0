"""How the native backend comes to be there: compiled once, or honestly missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparse_attn
from sparse_attn.errors import BuildError
from sparse_attn.ops import Buckets
from sparse_attn.ops.backends import choose, native_build


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache in which nothing has been built; what the process has loaded already aside."""
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native_build, "unsupported", lambda: None)
    native_build._missing.cache_clear()
    yield tmp_path
    native_build._missing.cache_clear()


def _tokens() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1, 23, 3), torch.randn(1, 23, 3), torch.randn(1, 23, 5)


def test_unbuilt_it_is_named_and_not_taken(elsewhere: Path) -> None:
    q, k, v = _tokens()
    reason = "not native: it has not been built (sparse-attn build-native)"
    assert choose(q, k, v, Buckets(None, 4), "auto") == ("blocked", reason)
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize("said", [None, "it needs Linux on x86-64"])
def test_without_compiler_or_processor(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    """Asked for by name it falls back, and says why."""
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    monkeypatch.setattr(native_build, "unsupported", lambda: said)
    with pytest.raises(BuildError, match=said or "no C.. compiler .*no-such-compiler on the path.*apt install"):
        sparse_attn.build_native()
    block = sparse_attn.create_attention("nlsa", 8, bucket_size=7, backend="native").eval()
    x = torch.randn(1, 8, 9, 9)
    with pytest.warns(UserWarning, match="'native' falls back to 'blocked': " + (said or "no C.. compiler")):
        out = block(x)
    block.configure(backend="blocked")
    assert torch.equal(out, block(x))
    assert not any(elsewhere.iterdir())


def test_a_compiler_that_fails_leaves_nothing(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = elsewhere / "failing"
    compiler.write_text("#!/bin/sh\necho 'operators.cpp: error: no such language' >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match=r"cannot compile .*no such language.*C\+\+20 with OpenMP"):
        sparse_attn.build_native()
    assert not any((elsewhere / "native").iterdir())


def test_a_cache_that_cannot_be_written(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "file").touch()
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(elsewhere / "file"))
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(BuildError, match=r"cannot be written to .*file/native.*SPARSE_ATTN_CACHE"):
        sparse_attn.build_native()


def test_a_damaged_library_is_not_taken(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "_loaded", lambda: False)
    native_build.library().parent.mkdir()
    native_build.library().write_bytes(b"half a file")
    q, k, v = _tokens()
    name, reason = choose(q, k, v, Buckets(None, 4), "auto")
    assert name == "blocked" and reason is not None and native_build.library().name in reason
