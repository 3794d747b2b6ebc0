"""Every bad input is one clear line on stderr and a non-zero exit, and leaves nothing half-written."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch

from sparse_attn.cli import jobs
from sparse_attn.imaging import Photo
from sparse_attn.inference import Upscaler
from tests.cli.conftest import Command, files, picture


def huge_png(path: Path) -> None:
    """A valid header that promises 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.png", None, "no such file"),
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"hello", "not an image"),
        ("cut.jpg", "cut", "truncated"),
        ("huge.png", "huge", "too large, expected at most 150 megapixels"),
    ],
)
def test_bad_pictures_are_one_line(
    command: Command, tmp_path: Path, name: str, content: bytes | str | None, said: str
) -> None:
    if content == "huge":
        huge_png(tmp_path / name)
    elif content == "cut":
        whole = picture(tmp_path / name, 64, 64).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    before = files(tmp_path)
    outcome = command("upscale", name)
    assert outcome.code == 1 and outcome.out == ""
    assert len(outcome.errors) == 1
    assert outcome.errors[0].startswith(f"error: cannot read '{name}': ") and said in outcome.errors[0]
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "nlsn_ligth_x4"], "error: unknown model 'nlsn_ligth_x4'; did you mean nlsn_light_x4,"),
        (
            ["-m", "nlsn_light_x2", "-s", 4],
            "error: nlsn_light_x2 enlarges 2 times, expected scale 2, got 4; use --model nlsn_light_x4",
        ),
        (["-s", 5], "error: unsupported scale, expected one of 2, 3, 4, got 5"),
        (["-m", "rcan_x4"], "error: no weights for 'rcan_x4', "),
        (["--device", "gpu"], "error: cannot use device 'gpu', "),
        (["--tile", 16], "error: bad tile, expected 0 or more than the overlap of 16, got 16"),
        (["-o", "b.gif"], "error: cannot write b.gif, expected a name ending in .png, "),
        (["-o", "a.txt/b.png"], "error: cannot write 'a.txt/b.png': a.txt is not a folder"),
        (["a.txt", "-o", "b.png"], "error: cannot write several pictures to b.png, expected a folder"),
        (["empty", "a.txt"], "error: folder empty is among other paths, and it is not clear where "),
        (["empty", "-o", "b"], "error: no files in empty"),
    ],
)
def test_bad_requests_are_one_line(command: Command, tmp_path: Path, words: list[object], said: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    outcome = command("upscale", "a.png", *words)
    assert outcome.code == 1 and outcome.out == ""
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith(said)
    assert files(tmp_path) == {"a.png", "a.txt"}


def test_a_folder_that_cannot_be_written_to(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "locked").mkdir(mode=0o555)
    # The superuser may write anywhere, so the system's answer is stood in for.
    monkeypatch.setattr(jobs.os, "access", lambda path, mode: Path(path).name != "locked")
    outcome = command("upscale", "in", "-o", "locked/new")
    assert outcome.code == 1
    assert outcome.errors == ["error: cannot write 'locked/new/a_x4.png': folder locked is not writable"]
    assert files(tmp_path / "locked") == set()


def test_usage_errors_are_the_shell_s_two(command: Command) -> None:
    for words in (["upscale"], ["upscale", "a.png", "--tile", "x"], ["upscale", "a.png", "--tile", "-1"], ["enlarge"]):
        outcome = command(*words)
        assert outcome.code == 2 and outcome.out == ""


def test_ctrl_c_ends_in_one_line(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Photo:
        raise KeyboardInterrupt

    picture(tmp_path / "a.png")
    monkeypatch.setattr(Upscaler, "__call__", interrupted)
    outcome = command("upscale", "a.png")
    assert (outcome.code, outcome.errors) == (130, ["error: interrupted"])
    assert files(tmp_path) == {"a.png"}


def test_running_out_of_memory_is_said_and_the_rest_goes_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Upscaler.__call__

    def greedy(self: Upscaler, image: Photo, **settings: object) -> Photo:
        if image.size == (17, 19):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        return original(self, image, **settings)  # type: ignore[call-overload, no-any-return]

    picture(tmp_path / "a.png", 17, 19)
    picture(tmp_path / "b.png")
    monkeypatch.setattr(Upscaler, "__call__", greedy)
    outcome = command("upscale", "a.png", "b.png")
    assert (outcome.code, outcome.errors) == (1, ["error: a.png: out of memory; use smaller tiles: --tile 64"])
    assert (tmp_path / "b_x4.png").is_file()


def test_a_bug_is_not_hidden(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Photo:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    picture(tmp_path / "a.png")
    monkeypatch.setattr(Upscaler, "__call__", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        command("upscale", "a.png")
