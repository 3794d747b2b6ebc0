"""Colours that the page and the figure share."""

from __future__ import annotations

import colorsys

# Eight stops of matplotlib's `inferno` from a quarter of its length on: it grows lighter all along, so that neither
# colour-blind eyes nor grey prints confuse much with little, and its dark end stands out from a darkened picture.
HEAT = (
    (87, 16, 110),
    (136, 34, 106),
    (179, 51, 89),
    (218, 78, 60),
    (243, 120, 25),
    (252, 174, 18),
    (246, 215, 70),
    (252, 255, 164),
)
# How much of their brightness a picture under weights, and pixels that are not attended to, keep.
DIMMED, REST = 0.42, 0.5
BUCKETS = 64


def bucket_colours() -> list[tuple[int, int, int]]:
    """Colours for buckets: neighbours in number differ in hue and in lightness."""
    found = []
    for i in range(BUCKETS):
        # Steps of the golden ratio, and of the plastic one, spread any number of them evenly.
        hue, light = i * 0.618034 % 1.0, 0.42 + 0.30 * (i * 0.754878 % 1.0)
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.62)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return found
