"""What the sub-commands share in talking to people: one line an error, tables, exit codes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer
from tqdm import tqdm
from typer.core import TyperGroup

from sparse_attn.errors import DataError, SparseAttnError

FAILED = 1
INTERRUPTED = 130


def print_error(text: str) -> None:
    """One line on stderr, above a progress bar if there is one."""
    with tqdm.external_write_mode():
        typer.echo(f"error: {' '.join(text.split())}", err=True)


def explain(error: BaseException) -> str | None:
    """What to tell a person about a failure that is not a bug of this program; None for one that is."""
    if isinstance(error, SparseAttnError):
        return str(error)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "out of memory; use smaller tiles: --tile 64"
    # A broken pipe is not for people: the reader has left.
    if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


class Commands(TyperGroup):
    """Sub-commands that fail in one line and with a code of their own."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the sub-command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            text = explain(error)
            if text is None:
                raise
            print_error(text)
            raise typer.Exit(FAILED) from error


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Aligned columns; those named in `right` to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(line, widths, header, strict=True)
        ]
        typer.echo("  ".join(cells).rstrip())


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
