"""The page as a file: small, self-contained, and exact enough; what is in it is shown by the browser's tests."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

from sparse_attn.errors import ConfigError
from sparse_attn.viewer.data import pack, quantised
from sparse_attn.viewer.page import LIMIT, page
from tests.viewer.support import large_view, view_of


class Elements(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize(
    ("name", "depth", "settings", "bits"),
    [
        ("nlsa", 16, {}, 16),
        ("nlsa", 64, {}, 16),
        ("nlsa", 16, {"shared_qk": False}, 16),
        ("nlsa", 64, {"shared_qk": False}, 8),
        ("topk", 64, {}, 16),
    ],
)
def test_a_map_of_128x128_is_under_5_mb(name: str, depth: int, settings: dict[str, Any], bits: int) -> None:
    text = page(large_view(name, depth, **settings))
    assert len(text.encode()) < LIMIT == 5_000_000
    assert data_of(text)["bits"] == bits
    assert f"{bits} bits a number" in text


def test_a_map_that_is_too_large() -> None:
    with pytest.raises(ConfigError, match=r"256x256 feature map would be too large.*crop 128"):
        page(large_view("nlsa", 64, side=256))


@pytest.mark.parametrize("bits", [8, 16])
def test_rounding(bits: int) -> None:
    tokens = torch.randn(17, 5) * torch.logspace(-3, 3, 17).unsqueeze(1)
    tokens[3] = 0
    packed = quantised(tokens, bits)
    whole = np.frombuffer(b64decode(packed["values"]), f"<i{bits // 8}").reshape(17, 5)
    scales = np.frombuffer(b64decode(packed["scales"]), "<f4")
    error = np.abs(whole * scales[:, None].astype(np.float64) - tokens.numpy())
    assert (error <= 0.5001 * scales[:, None]).all()
    assert np.abs(whole).max() == 2 ** (bits - 1) - 1


def test_lists_of_any_other_attention_are_packed() -> None:
    view = view_of("topk")
    other = replace(view.probe, attention=view_of("nla").probe.attention)
    (region,) = pack(other, 16)["regions"]
    lists = np.frombuffer(b64decode(region["lists"]), "<u2").reshape(-1, 16)
    assert (lists == view.probe.regions[0].groups.index[0].numpy()).all()


def test_what_cannot_be_shown() -> None:
    found = view_of("nlsa").probe
    with pytest.raises(ConfigError, match="finite queries"):
        pack(replace(found, queries=found.queries * torch.nan), 16)
    with pytest.raises(ConfigError, match="one picture"):
        pack(replace(found, queries=found.queries.expand(2, -1, -1)), 16)


def test_it_needs_nothing_from_elsewhere() -> None:
    text = page(view_of("nlsa"))
    elements = Elements(text).found
    for _, attributes in elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policies = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|\beval\(", text)


def test_every_part_has_a_name() -> None:
    elements = Elements(page(view_of("nlsa"))).found
    assert ("html", {"lang": "en"}) in elements
    viewport = next(a["content"] for tag, a in elements if a.get("name") == "viewport")
    assert "user-scalable" not in str(viewport) and "maximum-scale" not in str(viewport)
    for tag, attributes in elements:
        if tag == "section" or attributes.get("role") in ("application", "img"):
            assert attributes.get("aria-label"), attributes
        assert int(attributes.get("tabindex") or 0) <= 0
    assert any(attributes.get("role") == "status" for _, attributes in elements)


def test_names_are_text() -> None:
    sly = '</script><script>alert("$x")</script>'
    text = page(replace(view_of("nlsa"), layer=sly, title=sly))
    assert "<script>alert" not in text
    assert Elements(text).found.count(("script", {})) == 1
    assert "&lt;/script&gt;" in text
