"""Peak memory counts what a pass adds, and freed memory too."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sparse_attn.benchmark.memory import peak_bytes
from tests.conftest import CHECKOUT

CPU = torch.device("cpu")
MIB = 2**20


ACT = """
import torch
from sparse_attn.benchmark.memory import peak_bytes

def act():
    for count in (10, 48, 20):
        torch.ones(count * 2**20 // 4).sum()

print(peak_bytes(act, torch.device("cpu")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_of_what_is_freed_again() -> None:
    # In a process of its own, as benchmarks are: by what was freed before, the C library decides what it gives back.
    seen = subprocess.run([sys.executable, "-c", ACT], capture_output=True, text=True, cwd=CHECKOUT)
    assert seen.returncode == 0, seen.stderr
    assert 47 * MIB <= int(seen.stdout) <= 56 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_held_before_does_not_count() -> None:
    held = torch.ones(48 * MIB // 4)
    found = peak_bytes(lambda: held.add_(1), CPU)
    assert found is not None and found < 8 * MIB


def test_elsewhere_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_attn.benchmark.memory.sys.platform", "darwin")
    assert peak_bytes(lambda: None, CPU) is None
    assert peak_bytes(lambda: None, torch.device("meta")) is None
