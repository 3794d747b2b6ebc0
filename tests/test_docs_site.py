"""The built documentation: nothing dead, nothing from elsewhere, no heavy page, and a browser has no complaints."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import CHROMIUM, NO_CHROMIUM, Browser, chromium

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
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_a_browser_has_no_complaints(
    address: str, site: Path, pages: dict[Path, Page], browser: Browser, width: int, dark: bool
) -> None:
    browser.open(f"{address}/index.html")
    # A palette that was shown before is kept.
    browser.run("localStorage.clear()")
    browser.complaints.clear()
    for path in pages:
        if path.name == "404.html":
            continue
        browser.open(f"{address}/{path.relative_to(site)}", width=width, dark=dark)
        assert browser.run("document.body.scrollWidth") <= width, f"{path.name} is wider than the window"
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert browser.run(broken) == [], path.name
        scheme = browser.run("document.body.getAttribute('data-md-color-scheme')")
        assert scheme == ("slate" if dark else "default")
    assert browser.complaints == []


@needs_chromium
def test_search_finds_nlsa(address: str, browser: Browser) -> None:
    browser.open(f"{address}/index.html")
    browser.run("document.querySelector('.md-search__input').focus()")
    for key in "nlsa":
        browser.press(key)
    found = browser.wait("[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)")
    assert any("attentions.html" in link for link in found)
    browser.open(found[0])
    assert "nlsa" in browser.run("document.querySelector('main').innerText").lower()


@needs_chromium
def test_code_can_be_copied_and_menus_open(address: str, browser: Browser) -> None:
    browser.open(f"{address}/quickstart.html")
    copied = "document.querySelector('[data-clipboard-target]')"
    browser.wait(f"{copied} !== null")
    blocks = browser.run("document.querySelectorAll('.highlight pre').length")
    assert browser.run("document.querySelectorAll('[data-clipboard-target]').length") == blocks > 5
    links = browser.run("[...document.querySelectorAll('.md-nav--primary a.md-nav__link')].map(a => a.href)")
    assert {link.rpartition("/")[2].partition("#")[0] for link in links} >= {
        "install.html",
        "zoo.html",
        "training.html",
    }
    assert browser.complaints == []
