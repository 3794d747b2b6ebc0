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

model = sparse_attn.create_model("{address}", pretrained=True)
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


def model_card(
    model: nn.Module, *, name: str, config: Mapping[str, Any], address: str, title: str, license_id: str
) -> str:
    """A card in Hub form: YAML in front, then Markdown.

    Args:
        model: what is shared.
        name: its registered name.
        config: its configuration, JSON-able.
        address: what `create_model` takes to load it.
        title: the heading.
        license_id: the Hub's identifier of its licence.
    """
    attention = config.get("attention")
    tags = ["super-resolution", *([f"{attention}-attention"] if isinstance(attention, str) else [])]
    front = {"library_name": "sparse-attn", "pipeline_tag": "image-to-image", "license": license_id, "tags": tags}
    parameters = sum(p.numel() for p in model.parameters())
    scale = getattr(model, "scale", None)
    enlarges = isinstance(scale, int)
    what = f"`{name}` of the Python package `sparse-attn`, {parameters:,} parameters" + (
        f": enlarges pictures {scale} times." if enlarges else "."
    )
    text = TEXT.format(
        title=title,
        what=what,
        address=address,
        exchange=EXCHANGE if attention else "",
        example=EXAMPLE if enlarges else "",
        config=json.dumps({"model": name, "config": dict(config)}, indent=2),
        limits=f"It enlarges {scale} times, and by no other factor." if enlarges else "",
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{text.rstrip()}\n"
