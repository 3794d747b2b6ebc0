"""A view's page in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparse_attn.viewer import View


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a view's page, from a file and without a network; anything it complains about fails the test."""
    contexts, complaints = [], []

    def open_page(view: View, fragment: str = "", **settings: Any) -> Any:
        file = tmp_path / "page.html"
        view.save(file)
        context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if _own(request.url) else complaints.append(request.url))
        page.goto(f"{file.as_uri()}{fragment}")
        page.wait_for_selector("#kept:not(:empty)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _own(address: str) -> bool:
    return address.startswith(("file:", "data:"))
