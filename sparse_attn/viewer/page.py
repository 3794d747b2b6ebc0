"""The page: one file with everything in it, which computes in the browser what is asked of it."""

from __future__ import annotations

import html
import io
import json
from base64 import b64encode
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import ConfigError
from sparse_attn.viewer.data import pack
from sparse_attn.viewer.palette import DIMMED, HEAT, REST, bucket_colours

if TYPE_CHECKING:
    from sparse_attn.viewer.view import View

LIMIT = 5_000_000
_LONGEST = 768
_FOLDER = Path(__file__).resolve().parent


def page(view: View) -> str:
    """The page's text, under 5 MB, with the finest numbers that allows.

    Raises:
        ConfigError: a feature map too large even for the coarsest.
    """
    for bits in (16, 8):
        text = _build(view, bits)
        size = len(text.encode())
        if size < LIMIT:
            return text
    height, width = view.probe.size
    raise ConfigError(
        f"the page of a {width}x{height} feature map would be too large",
        expected=f"under {LIMIT / 1e6:g} MB",
        got=f"{size / 1e6:.1f} MB",
        remedy="look at a part of the picture: --crop 128, crop=128 in Python",
    )


def _build(view: View, bits: int) -> str:
    rows, columns = view.picture.shape[:2]
    data = {
        **pack(view.probe, bits),
        "name": view.attention.partition(" ")[0],
        "at": view.at,
        "corner": view.corner,
        "picture": {"width": columns, "height": rows, "source": _embedded(view.picture)},
        "heat": HEAT,
        "dimmed": DIMMED,
        "rest": REST,
        "colours": bucket_colours(),
    }
    template = Template(_read("page.html"))
    text = template.substitute(
        title=html.escape(f"{view.title}: what {view.layer or 'the attention'} attends to"),
        heading=html.escape(view.layer or "the attention"),
        facts=html.escape(_facts(view, bits)),
        name=html.escape(view.attention.partition(" ")[0]),
        style=_read("page.css"),
        # A script in HTML ends at the first </, wherever that stands.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        script="".join(map(_read, ("attended.js", "drawing.js", "page.js"))),
    )
    # Titles hold file names, which need not be text.
    return text.encode("utf-8", "replace").decode()


def _facts(view: View, bits: int) -> str:
    (height, width), (rows, columns) = view.probe.size, view.picture.shape[:2]
    facts = [view.attention, view.title]
    if (columns, rows) != view.whole:
        facts.append(f"the part of {columns}x{rows} pixels at {view.corner[0]},{view.corner[1]}")
    facts.append(f"feature map {width}x{height}")
    facts.append(f"computed here from queries and keys of {bits} bits a number")
    return " · ".join(facts)


def _embedded(pixels: NDArray[np.uint8]) -> str:
    """A data URI: exact where that is small."""
    from PIL import Image

    image = Image.fromarray(pixels)
    exact = image.width * image.height <= 1 << 16
    image.thumbnail((_LONGEST, _LONGEST))
    options: dict[str, Any] = {"format": "PNG"} if exact else {"format": "JPEG", "quality": 90}
    file = io.BytesIO()
    image.save(file, **options)
    return f"data:image/{options['format'].lower()};base64,{b64encode(file.getvalue()).decode()}"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
