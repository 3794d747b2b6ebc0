"""The viewer's picture and page, drawn while the documentation is built, so that they cannot fall behind the code.

Usage: python docs/viewer_pictures.py FOLDER

Writes them there. They are what `sparse-attn inspect input.png --layer 0 --at 60,40` makes of the small photo that
`sparse-attn demo` writes: all of it in the figure, `--crop 64` in the page.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import sparse_attn
from sparse_attn.viewer import View, inspect

MODEL = "nlsn_light_x4"
PHOTO = Path(sparse_attn.__file__).resolve().parent / "assets" / "coffee.png"


@functools.cache
def viewer_pictures() -> dict[str, bytes]:
    """`inspect.png` and `look.html`; drawn once in a process, as a server that watches files builds again and again."""
    return {"inspect.png": look().render("png"), "look.html": look(crop=64).render("html")}


def look(crop: int | None = None) -> View:
    """The first attention, at a pixel of the coffee."""
    model = sparse_attn.create_model(MODEL, pretrained=True)
    photo = sparse_attn.read_image(PHOTO).pixels
    height, width = (side - side % 4 for side in photo.shape[:2])
    small = sparse_attn.resize(photo[:height, :width], 1 / 4)
    title = f"{MODEL} on input.png"
    return inspect(model, sparse_attn.Photo(small), at=(60, 40), layer=0, crop=crop, title=title)


if __name__ == "__main__":
    for name, content in viewer_pictures().items():
        (Path(sys.argv[1]) / name).write_bytes(content)
