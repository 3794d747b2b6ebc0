"""The model card of a shared model: what can be said of it without having measured anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from torch import nn

TEXT = """\
# {title}

{what}

## Use it

```python
import sparse_attn

model = sparse_attn.create_model({address}, pretrained=True)
{example}```

The weights are checked against the SHA-256 in `config.json` as they are loaded.{exchange}

## Configuration

```json
{config}
```

## Limits

What it was trained on, how, and how well it does are not recorded here: whoever shares it knows, and should say so in
this place. {limits}
"""
EXCHANGE = """ Any attention with the same
parameters fits them, for instance dense attention: `create_model(..., attention="nla")`."""
EXAMPLE = 'sparse_attn.write_image("large.png", sparse_attn.upscale(model, "photo.png"))\n'


def model_card(model: nn.Module, written: Mapping[str, Any], *, address: str, title: str, license_id: str) -> str:
    """A card in Hub form: YAML in front, then Markdown.

    Args:
        model: what is shared.
        written: what `config.json` says of it: its registered name as `model`, its `config`, and its `edits` if any.
        address: what `create_model` takes to load it.
        title: the heading.
        license_id: the Hub's identifier of its licence.
    """
    attention, edits = written["config"].get("attention"), written.get("edits", ())
    swapped = any(edit["edit"] == "swap" for edit in edits)
    kinds = {attention} if isinstance(attention, str) else set()
    kinds |= {edit["attention"] for edit in edits}
    tags = ["super-resolution", *(f"{kind}-attention" for kind in sorted(kinds))]
    front = {"library_name": "sparse-attn", "pipeline_tag": "image-to-image", "license": license_id, "tags": tags}
    parameters = sum(p.numel() for p in model.parameters())
    scale = getattr(model, "scale", None)
    enlarges = isinstance(scale, int)
    what = f"`{written['model']}` of the Python package `sparse-attn`, {parameters:,} parameters" + (
        f": enlarges pictures {scale} times." if enlarges else "."
    )
    text = TEXT.format(
        title=_one_line(title),
        what=what,
        # What JSON leaves as it is, no line of Python or Markdown stumbles over.
        address=json.dumps(address, ensure_ascii=not address.isprintable()),
        exchange=EXCHANGE if attention and not swapped else "",
        example=EXAMPLE if enlarges else "",
        config=json.dumps(dict(written), indent=2),
        limits=f"It enlarges {scale} times, and by no other factor." if enlarges else "",
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{text.rstrip()}\n"


def _one_line(text: str) -> str:
    """Text without line breaks and other control characters, nor bytes of a file name that are no characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
