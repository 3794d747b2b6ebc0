"""The log of a run: JSON lines always, experiment trackers where asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG = "log.jsonl"


class Journal:
    """Appends to a run's `log.jsonl`; nothing is written where `enabled` is False, as on all ranks but the first.

    Args:
        folder: of the run.
        enabled: write at all.
    """

    def __init__(self, folder: Path, *, enabled: bool = True) -> None:
        self.path, self.enabled, self.lines = folder / LOG, enabled, 0

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line."""
        if self.enabled:
            with open(self.path, "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            self.lines += 1

    def rewind(self, lines: int) -> None:
        """Keeps the first `lines` lines: a run that goes on from a checkpoint writes the later ones again."""
        self.lines = lines
        if not self.enabled or not self.path.is_file():
            return
        kept = read_log(self.path.parent)[:lines]
        temporary = self.path.with_name(f".{LOG}.{os.getpid()}")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that a crash cut short is left out."""
    lines: list[dict[str, Any]] = []
    for text in (folder / LOG).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
