"""A zoo folder out of somebody else's checkpoint: its card, and writing all of it or nothing."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_attn.errors import DataError, WeightsError
from sparse_attn.weights.files import CONFIG, is_weight_file, read_config
from sparse_attn.weights.zoo import write_zoo_folder

CARD = "README.md"
# The entry of `config.json` that says that an import wrote the folder.
MARK = "imported"

_CARD = """---
library_name: sparse-attn
license: unknown
pipeline_tag: image-to-image
tags:
- super-resolution
---

# {title}

Imported from somebody else's checkpoint by `sparse-attn import`; the weights were not trained by the `sparse_attn`
project. Their licence is that of their source, which the file does not name: find it out before you pass them on.

| | |
|---|---|
| source file | `{source}` |
| its SHA-256 | `{digest}` |
| layout | {layout} |
| model | `{model}`, {shape} |
{left}
## What was assumed

{assumed}

## Use

```py
import sparse_attn

{use}
```
"""


@dataclass(frozen=True)
class Provenance:
    """Where imported weights are from, for their card.

    Args:
        source: the file's name.
        digest: its SHA-256.
        layout: whose names it had, and under which containers and prefixes.
        shape: depth and width, in words.
        assumed: what no tensor showed.
        left: what of the file was not taken.
        use: Python that loads the folder.
    """

    source: str
    digest: str
    layout: str
    shape: str
    assumed: tuple[str, ...]
    left: tuple[str, ...]
    use: str


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuses to replace anything but an earlier import, and that only if told to.

    Raises:
        DataError: the folder is there, or holds files that an import does not write.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file", expected="a folder to write", remedy="choose another with --out")
    there = sorted(path.name for path in folder.iterdir())
    if not there:
        return
    if not overwrite:
        raise DataError(f"{folder} exists", remedy="choose another with --out, or replace it with --overwrite")
    try:
        recorded = read_config(folder)
    except WeightsError:
        recorded = {}
    files = recorded.get("files")
    if not isinstance(recorded.get(MARK), dict) or not isinstance(files, dict):
        raise DataError(f"{folder} is not replaced: no import wrote it", got=", ".join(there[:5]), remedy="use --out")
    foreign = [name for name in there if name not in (CONFIG, CARD) and not (name in files and is_weight_file(name))]
    if foreign:
        raise DataError(
            f"{folder} is not replaced", expected="nothing but a model", got=", ".join(foreign[:5]), remedy="use --out"
        )


def write_imported(
    folder: Path,
    weights: Mapping[str, Tensor],
    provenance: Provenance,
    *,
    model: str,
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Writes `config.json`, safetensors and the card: beside the folder first, which is then put in place whole.

    An empty folder is written into instead: it may be where somebody stands, or a device of its own.

    Args:
        folder: made, with its parents; replaced where `overwrite` is set and an import wrote it; of a link what it
            points to.
        weights: under this package's names.
        provenance: for the card.
        model: the registered name.
        config: the model's configuration.
        dtype: floating-point tensors are stored in it; None keeps theirs.
        overwrite: replace an earlier import.

    Raises:
        DataError: there is something that is not replaced, or the folder cannot be written.
        WeightsError: a value is not finite in `dtype`.
    """
    check_target(folder, overwrite=overwrite)
    folder = folder.resolve()
    card = _card(plain(folder.name), model, provenance)
    mark = {"source": plain(provenance.source), "sha256": provenance.digest}
    # With the first two, timm finds the model too, once timm_models is imported.
    more = {"architecture": model, "pretrained_cfg": {}, MARK: mark}

    def write(into: Path) -> None:
        write_zoo_folder(into, weights, model=model, config=config, dtype=dtype, more=more)
        (into / CARD).write_text(card, encoding="utf-8")

    try:
        if folder.exists() and not any(folder.iterdir()):
            write(folder)
        else:
            _put_in_place(folder, write)
    except OSError as error:
        raise DataError(
            f"cannot write {plain(str(folder))}", got=error.strerror or str(error), remedy="choose another with --out"
        ) from error


def _put_in_place(folder: Path, write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.parent / f".{uuid.uuid4().hex}.{kind}" for kind in ("new", "old"))
    try:
        write(new)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def plain(text: str) -> str:
    """Text that any file and terminal can take: what cannot be printed becomes a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _escaped(text: str) -> str:
    """Somebody else's words as Markdown that shows just them, in a table too."""
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", plain(text))


def _code(text: str) -> str:
    """The same between backticks, where nothing is escaped."""
    return plain(text).replace("`", "'").replace("|", "?")


def _card(title: str, model: str, provenance: Provenance) -> str:
    left = f"| left out | {_escaped('; '.join(provenance.left))} |\n" if provenance.left else ""
    assumed = "\n".join(f"- {_escaped(line)}." for line in provenance.assumed) or "Nothing: the tensors show all of it."
    return _CARD.format(
        title=_escaped(title),
        source=_code(provenance.source),
        digest=provenance.digest,
        layout=_escaped(provenance.layout),
        model=model,
        shape=provenance.shape,
        left=left,
        assumed=assumed,
        use=provenance.use,
    )
