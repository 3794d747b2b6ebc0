"""The demonstration's picture: versions of a photo in a row, and below each a magnified detail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_SIDE, _GAP = 512, 12
# Of the width of a panel: sheets are shown at all sizes, and a label should be as legible on each.
_FONT, _LABEL = 36 / _SIDE, 60 / _SIDE
_ZOOM = 5
_PAPER, _INK, _FRAME = (255, 255, 255), (24, 24, 24), (80, 208, 255)


@dataclass(frozen=True)
class Panel:
    """One version of the photo.

    Args:
        label: written above it.
        pixels: (H, W) or (H, W, 3), uint8; the same size in every panel.
    """

    label: str
    pixels: Pixels


def side_by_side(panels: list[Panel]) -> Pixels:
    """The panels in a row, shrunk to 512 pixels where larger; in a second row the detail that gained most, magnified.

    Args:
        panels: at least three; the last is the original, the one before is what is shown to be better than the one
            before that.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = panels[0].pixels.shape[:2]
    shrink = min(1.0, _SIDE / max(height, width))
    shown = (round(width * shrink), round(height * shrink))
    detail = min(_SIDE // _ZOOM, height, width)
    zoomed = detail * _ZOOM
    cell = max(shown[0], zoomed)
    top, left = most_gained(*(panel.pixels for panel in panels[-3:]), side=detail)
    label = round(cell * _LABEL)
    size = (len(panels) * (cell + _GAP) + _GAP, label + shown[1] + _GAP + zoomed + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(cell * _FONT)
    for i, panel in enumerate(panels):
        x = _GAP + i * (cell + _GAP)
        middle = x + cell // 2
        draw.text((middle, label // 2), panel.label, fill=_INK, font=font, anchor="mm")
        picture = Image.fromarray(panel.pixels).convert("RGB")
        corner = (middle - shown[0] // 2, label)
        sheet.paste(picture.resize(shown, Image.Resampling.LANCZOS), corner)
        box = [corner[0] + left * shrink, corner[1] + top * shrink]
        draw.rectangle([*box, box[0] + detail * shrink, box[1] + detail * shrink], outline=_FRAME, width=2)
        crop = picture.crop((left, top, left + detail, top + detail))
        place = (middle - zoomed // 2, label + shown[1] + _GAP)
        sheet.paste(crop.resize((zoomed, zoomed), Image.Resampling.NEAREST), place)
        draw.rectangle([*place, place[0] + zoomed - 1, place[1] + zoomed - 1], outline=_FRAME, width=2)
    return np.asarray(sheet)


def most_gained(before: Pixels, after: Pixels, original: Pixels, *, side: int) -> tuple[int, int]:
    """(top, left) of the square in which `after` is nearer to the original than `before` by the most."""

    def error(pixels: Pixels) -> NDArray[np.float64]:
        squares = (pixels.astype(np.float64) - original) ** 2
        return squares if squares.ndim == 2 else squares.sum(axis=2)

    total = np.pad((error(before) - error(after)).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    gained = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(int(gained.argmax()), gained.shape)
    return int(top), int(left)
