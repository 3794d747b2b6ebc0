"""The built documentation: nothing dead, nothing from elsewhere, no heavy page, and a browser has no complaints."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 1_500_000
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("source", "srcset")}


class Page(HTMLParser):
    """What a page is, points at, and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.unnamed: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(given.get("src", ""))
        # `rel=canonical` and the like are names, not files that a browser fetches.
        if tag != "link" or given.get("rel") in ("stylesheet", "icon"):
            self.loaded += [given[name] for name in given if (tag, name) in LOADED]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    # Not with --quiet: what MkDocs does not print, --strict does not count.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def target(site: Path, page: Path, link: str) -> Path:
    path = unquote(urlsplit(link).path)
    found = site / path.lstrip("/") if path.startswith("/") else page.parent / path if path else page
    return (found / "index.html" if found.is_dir() else found).resolve()


def test_no_link_is_dead(site: Path, pages: dict[Path, Page]) -> None:
    dead = []
    for page, content in pages.items():
        for link in [*content.links, *content.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = target(site, page, link)
            anchors = pages[path].anchors if path in pages else {unquote(parts.fragment)}
            if not path.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    outside = {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc}
    assert not outside


def test_every_public_name_is_in_the_reference(site: Path, pages: dict[Path, Page]) -> None:
    frozen = json.loads((ROOT / "tests" / "public_names.json").read_text(encoding="utf-8"))
    anchors = set[str]().union(*(page.anchors for path, page in pages.items() if path.parent == site / "reference"))
    told = {anchor.rpartition(".")[2] for anchor in anchors}
    assert {name for name in frozen["sparse_attn"] if not name.startswith("__")} <= told


def test_docstrings_are_read_as_meant(site: Path) -> None:
    """Not slanted by the stars of a product, no example as a quotation, no returned value torn into its lines."""
    texts = [(site / "reference" / f"{name}.html").read_text(encoding="utf-8") for name in ("attentions", "python")]
    described = "".join(text[text.index("<article") : text.index("</article")] for text in texts)
    assert "<blockquote>" not in described
    assert not re.findall(r"\w<em>[^<]*</em>\w?", described)
    returned = re.findall(r"Returns:</span></p>\s*<ul>(.*?)</ul>", described, re.DOTALL)
    assert {item.count("doc-section-item") for item in returned} == {1}


def test_images_have_words(pages: dict[Path, Page]) -> None:
    assert not {image for page in pages.values() for image in page.unnamed}


def test_no_page_is_heavy(site: Path, pages: dict[Path, Page]) -> None:
    def weight(path: Path, page: Page) -> int:
        files = {target(site, path, link) for link in page.loaded if not urlsplit(link).scheme}
        return path.stat().st_size + sum(file.stat().st_size for file in files)

    weights = {str(path.relative_to(site)): weight(path, page) for path, page in pages.items()}
    assert {name: size for name, size in weights.items() if size > MOST_BYTES} == {}


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            del args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def window(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a window of a width and a colour scheme; anything it complains about fails the test."""
    contexts, complaints = [], []

    def open_window(width: int = 1280, scheme: str = "light") -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: None if _left(request) else complaints.append(request.url))
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert complaints == []


def _left(request: Any) -> bool:
    """Whether the page that asked was left before the answer came."""
    return bool(request.failure == "net::ERR_ABORTED")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_a_browser_has_no_complaints(
    address: str, site: Path, pages: dict[Path, Page], window: Callable[..., Any], width: int, scheme: str
) -> None:
    view = window(width, scheme)
    for path in pages:
        # One is for links that lead nowhere, one is the viewer's.
        if path.name in ("404.html", "look.html"):
            continue
        view.goto(f"{address}/{path.relative_to(site)}")
        assert view.evaluate("document.body.scrollWidth") <= width, f"{path.name} is wider than the window"
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert view.evaluate(broken) == [], path.name
        shown = view.locator("body").get_attribute("data-md-color-scheme")
        assert shown == {"light": "default", "dark": "slate"}[scheme]


def test_search_finds_nlsa(address: str, window: Callable[..., Any]) -> None:
    view = window()
    view.goto(f"{address}/index.html")
    view.locator(".md-search__input").press_sequentially("nlsa")
    view.locator(".md-search-result__link").first.wait_for()
    found = view.locator(".md-search-result__link").evaluate_all("links => links.map(a => a.href)")
    assert any("attentions.html" in link for link in found)
    view.goto(found[0])
    assert "nlsa" in view.locator("main").inner_text().lower()


def test_code_is_copied(address: str, window: Callable[..., Any]) -> None:
    view = window()
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.goto(f"{address}/quickstart.html")
    block = view.locator(".highlight").first
    block.hover()
    block.locator("[data-clipboard-target], .md-clipboard").first.click()
    view.locator(".md-dialog--active").wait_for()
    assert view.evaluate("navigator.clipboard.readText()").strip() == block.locator("code").inner_text().strip()


def test_the_viewers_page_is_alive(address: str, window: Callable[..., Any]) -> None:
    view = window()
    view.goto(f"{address}/viewer.html")
    view.get_by_role("link", name="The page of a part of it").click()
    view.wait_for_selector("#kept:not(:empty)")


def test_the_menu_opens_on_a_phone(address: str, window: Callable[..., Any]) -> None:
    view = window(390)
    view.goto(f"{address}/index.html")
    view.locator("label.md-header__button[for=__drawer]").click()
    view.get_by_role("link", name="Install", exact=True).first.wait_for(state="attached")
    links = view.locator(".md-nav--primary a.md-nav__link").evaluate_all("links => links.map(a => a.href)")
    names = {link.rpartition("/")[2].partition("#")[0] for link in links}
    assert names >= {"install.html", "zoo.html", "training.html"}
