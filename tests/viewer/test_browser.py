"""The page in a headless Chromium: its numbers are the probe's, and every way of choosing a pixel works."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("playwright.sync_api", reason="pip install playwright to run these tests")
from playwright.sync_api import expect

from sparse_attn.attention import list_attention
from sparse_attn.viewer import View
from tests.attention.support import takes
from tests.viewer.support import AT, SIZE, large_view, view_of

Show = Callable[..., Any]
HEIGHT, WIDTH = SIZE
LOOK = """([token, round]) => {
  const {dense, weights, chosen} = attended.look(token, round);
  return [dense, weights, chosen.counts].map((values) => Array.from(values)).concat([chosen.kept, chosen.chunk]);
}"""


def compare(page: Any, view: View, token: int, tolerance: float, *, apart: bool = True) -> None:
    """All rounds together, and each of them."""
    found, query = view.probe, torch.tensor([token])
    counts = found.counts(query)[0, :, 0]
    dense = found.dense_weights(query)[0, 0]
    chunks = found.chunks()
    for number in range(found.rounds + 1 if apart else 1):
        shown = page.evaluate(LOOK, [token, number])
        expected = counts.sum(0) if number == 0 else counts[number - 1]
        torch.testing.assert_close(torch.tensor(shown[2], dtype=torch.int16), expected.to(torch.int16))
        torch.testing.assert_close(torch.tensor(shown[0]), dense, atol=tolerance, rtol=tolerance)
        if number == 0:
            weights = found.weights(query)[0, 0]
            torch.testing.assert_close(torch.tensor(shown[1]), weights, atol=tolerance, rtol=tolerance)
        assert shown[3] == pytest.approx(float(dense[expected > 0].sum()), abs=tolerance)
        # Where a window is dense, the page shows its one round in all maps.
        if number > 0 and chunks is not None and counts[number - 1].any():
            assert shown[4] == chunks[0, number - 1].flatten()[token]


VARIANTS: list[dict[str, Any]] = [
    {},
    {"window": (5, 7)},
    {"boundary": "repeat", "shared_qk": False},
    {"bucket_size": 400, "normalize_keys": False},
]


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, variant) for name in list_attention() for variant in VARIANTS if all(takes(name, key) for key in variant)],
)
def test_numbers_are_the_probes(show: Show, name: str, settings: dict[str, Any]) -> None:
    view = view_of(name, **settings)
    page = show(view)
    for token in (0, 60, HEIGHT * WIDTH - 1):
        compare(page, view, token, 1e-3)


def test_numbers_in_eight_bits(show: Show) -> None:
    view = large_view("nlsa", 64, shared_qk=False)
    page = show(view)
    assert page.evaluate("data.bits") == 8
    compare(page, view, 7 * 128 + 5, 1e-2, apart=False)


def point(page: Any, canvas: str, x: int, y: int) -> dict[str, float]:
    """Where the map's pixel is on the screen."""
    page.locator(canvas).scroll_into_view_if_needed()
    box = page.locator(canvas).bounding_box()
    return {"x": box["x"] + box["width"] * (x + 0.5) / WIDTH, "y": box["y"] + box["height"] * (y + 0.5) / HEIGHT}


def chosen(page: Any) -> tuple[int, int]:
    return int(page.locator("#x").input_value()), int(page.locator("#y").input_value())


def says(page: Any, view: View, x: int, y: int) -> bool:
    """Whether the page shows this pixel, and its share of dense attention's mass."""
    query = torch.tensor([y * WIDTH + x])
    mask = view.probe.counts(query)[0, :, 0].sum(0) > 0
    kept = 100 * float(view.probe.dense_weights(query)[0, 0][mask].sum())
    text = page.locator("#kept").text_content()
    return chosen(page) == (x, y) and abs(float(text.removesuffix("%")) - kept) < 0.06


@pytest.fixture(scope="module")
def view() -> View:
    return view_of("nlsa")


def test_it_starts_where_it_was_asked_to(show: Show, view: View) -> None:
    assert says(show(view), view, *AT)


@pytest.mark.parametrize("canvas", ["#picture", "#sparse", "#dense", "#maps figure:nth-child(2) canvas"])
def test_a_click_keeps_a_pixel_and_pointing_looks_at_one(show: Show, view: View, canvas: str) -> None:
    page = show(view)
    page.mouse.click(**point(page, canvas, 3, 9))
    assert says(page, view, 3, 9)
    assert f"Pixel 3, 9: attends to {int((view.probe.counts(torch.tensor([120]))[0].sum(0) > 0).sum())} pixels" in (
        page.locator("#spoken").text_content()
    )
    page.mouse.move(**point(page, canvas, 10, 2))
    expect(page.locator("#x")).to_have_value("10")
    assert says(page, view, 10, 2)
    page.mouse.move(1, 1)
    expect(page.locator("#x")).to_have_value("3")
    assert says(page, view, 3, 9)


def test_what_is_drawn(show: Show, view: View) -> None:
    page = show(view, f"#x={AT[0]}&y={AT[1]}")
    picture = """(name) => {
      const {width: wide, height: high} = element(name);
      const {data} = element(name).getContext("2d").getImageData(0, 0, wide, high);
      return Array.from({length: width * height}, (_, i) => {
        const x = Math.floor((i % width + 0.1) * wide / width);
        const at = 4 * (Math.floor((Math.floor(i / width) + 0.1) * high / height) * wide + x);
        return [data[at], data[at + 1], data[at + 2]];
      });
    }"""
    colours = torch.tensor(page.evaluate(picture, "sparse"))
    coloured = (colours.amax(1) - colours.amin(1)) > 20
    far = torch.tensor([abs(i % WIDTH - AT[0]) + abs(i // WIDTH - AT[1]) > 2 for i in range(HEIGHT * WIDTH)])
    # Attended pixels are in colours, the rest is grey; around the pixel is its ring.
    assert torch.equal(coloured[far], view.attended[far])
    dense = torch.tensor(page.evaluate(picture, "dense"))
    weights = view.probe.dense_weights(view.query)[0, 0]
    order = weights[far].argsort()
    brightness = dense[far].sum(1)[order]
    assert (brightness.diff() >= -3).all()


def test_keys(show: Show, view: View) -> None:
    page = show(view)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "picker"
    for key, place in [
        ("ArrowRight", (8, 4)),
        ("ArrowDown", (8, 5)),
        ("Shift+ArrowLeft", (0, 5)),
        ("ArrowLeft", (0, 5)),
        ("Shift+ArrowDown", (0, 10)),
        ("ArrowUp", (0, 9)),
    ]:
        page.keyboard.press(key)
        assert says(page, view, *place), key
    expect(page).to_have_url(re.compile("#x=0&y=9$"))
    names = ["all rounds", "round 1", "round 2", "round 3"]
    checked = "document.querySelector('#rows :checked').closest('tr').querySelector('label').textContent"
    for key, number in [("r", 1), ("r", 2), ("r", 3), ("r", 0), ("3", 3), ("7", 3), ("0", 0)]:
        page.keyboard.press(key)
        assert page.evaluate(checked) == names[number]
        assert page.locator("#maps .chosen").count() == (number > 0)
    reached = [page.evaluate("document.activeElement.id || document.activeElement.name")]
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert reached == ["picker", "x", "y", "round"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(checked) == "round 1"


def test_numbers_typed_in_and_addresses(show: Show, view: View) -> None:
    page = show(view, "#x=5&y=7&round=2")
    assert chosen(page) == (5, 7)
    assert page.locator("#sparse-note").text_content().startswith(", round 2: ")
    page.locator("label", has_text="all rounds").click()
    page.locator("#x").fill("11")
    page.keyboard.press("Enter")
    assert says(page, view, 11, 7)
    page.evaluate("location.hash = '#x=999&y=2&round=77'")
    expect(page.locator("#y")).to_have_value("2")
    assert chosen(page) == (WIDTH - 1, 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(show: Show, view: View, scheme: str) -> None:
    page = show(view, color_scheme=scheme, has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    spot = point(page, "#picture", 2, 3)
    page.touchscreen.tap(**spot)
    assert says(page, view, 2, 3)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    low = page.evaluate(CONTRAST)
    assert low == []


# Every text against the paper, by the formula of WCAG 2.
CONTRAST = """() => {
  const luminance = (colour) => colour.match(/\\d+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("h1, h2, p, figcaption, th, td, label, span")]
    .filter((node) => node.textContent.trim()).filter((node) => {
      const ink = luminance(getComputedStyle(node).color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5;
    }).map((node) => node.outerHTML);
}"""


def test_names_for_those_who_listen(show: Show, view: View) -> None:
    page = show(view)
    tree = page.locator("body").aria_snapshot()
    for expected in (
        'application "Picture: choose a pixel with the arrow keys"',
        'img "The picture, and over it the weights of the pixels attended to"',
        'spinbutton "x"',
        'spinbutton "y"',
        'radio "all rounds" [checked]',
        'radio "round 3"',
        'img "The buckets of round 3"',
        'table "What each round attends to"',
        "- status: ",
    ):
        assert expected in tree, tree


def test_without_chunks_or_rounds_there_are_no_maps(show: Show) -> None:
    page = show(view_of("topk"))
    assert page.locator("#maps-section").is_hidden()
    assert page.locator("#rows tr").count() == 1
    assert page.locator("#round-keys").is_hidden()
    page.keyboard.press("r")
    assert page.locator("#sparse-note").text_content() == ": 16 pixels"


def test_a_coarser_map_and_a_part_of_the_picture(show: Show) -> None:
    # 26x22 pixels of a larger picture stand over the 13x11 pixels of the map.
    coarse = replace(
        view_of("nlsa"), picture=np.zeros((22, 26), np.uint8), at=(44, 38), corner=(30, 30), whole=(90, 90)
    )
    assert coarse.place == (7, 4)
    page = show(coarse)
    assert page.evaluate("shown.pinned") == 4 * WIDTH + 7
    assert page.evaluate("toToken(44, 38)") == 4 * WIDTH + 7
    page.mouse.click(**point(page, "#picture", 0, 10))
    assert page.evaluate("shown.pinned") == 10 * WIDTH
    assert chosen(page) == (31, 51)
