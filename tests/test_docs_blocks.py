"""Every Python block of the documentation runs, page by page, as a reader would type it; every command is known."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from sparse_attn import Photo, write_image
from sparse_attn.attention import attentions
from sparse_attn.backbones import models
from sparse_attn.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def _pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for name, size in {"photo": (19, 23), "original": (34, 38)}.items():
        write_image(tmp_path / f"{name}.png", Photo(rng.integers(0, 256, (*size, 3), dtype=np.uint8)))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (attentions, models):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_there_are_blocks() -> None:
    assert sum(len(blocks_of(page)) for page in PAGES) >= 15


@pytest.mark.usefixtures("_pictures", "_own_registries")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.name)
def test_blocks_run(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page):
        exec(compile(block, f"a block of {page.name}", "exec", dont_inherit=True), namespace)
    for name, function in list(namespace.items()):
        if name.startswith("test_") and callable(function):
            function()


def commands_of(page: Path) -> list[list[str]]:
    """The words of each `sparse-attn` command of a page."""
    text = "\n".join(COMMANDS.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["sparse-attn"]]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, options and how many arguments there are; what they do is tested beside each command."""
    monkeypatch.delenv("SPARSE_ATTN_DATA", raising=False)
    for given in commands_of(page):
        command, words = get_command(app), given
        while words and words[0] in getattr(command, "commands", {}):
            command, words = command.commands[words[0]], words[1:]
        assert words == ["--help"] or not hasattr(command, "commands"), f"no such command: {given}"
        if words != ["--help"]:
            command.make_context("sparse-attn", list(words))
