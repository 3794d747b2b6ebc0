"""The command as a process: what a shell sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import picture
from tests.conftest import CHECKOUT

# A command that has begun, says so, and does not end.
ENDLESS = """
import signal
import time
from sparse_attn import cli

# A job in the background inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

@cli.app.command("endless")
def endless():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)

cli.main()
"""


def run(folder: Path, zoo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparse_attn.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "SPARSE_ATTN_ZOO": str(zoo)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_good_a_truncated_and_a_text_file(tmp_path: Path, zoo_folder: Path) -> None:
    good = picture(tmp_path / "in" / "good.png", 17, 19)
    (tmp_path / "in" / "cut.png").write_bytes(good.read_bytes()[:300])
    (tmp_path / "in" / "notes.txt").write_text("hello")
    done = run(tmp_path, zoo_folder, "upscale", "in", "out")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: cannot read 'in/") for line in lines)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_x4.png"]


def test_errors_before_any_work(tmp_path: Path, zoo_folder: Path) -> None:
    done = run(tmp_path, zoo_folder, "upscale", "missing.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot read 'missing.png': no such file\n"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c(tmp_path: Path, zoo_folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "endless"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "SPARSE_ATTN_ZOO": str(zoo_folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "error: interrupted\n"
