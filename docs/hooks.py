"""MkDocs hooks: pages and pictures made from the code, tables put where their comments stand, equations as MathML.

MathML needs no script and no font from elsewhere, so the built pages work without a network.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import pages
from ablation_pages import ablation_pages
from bench_tables import bench_section
from choosing_table import choosing_table
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from viewer_pictures import viewer_pictures
from zoo_table import zoo_section, zoo_table

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
INLINE = re.compile(r'<span class="arithmatex">\\\((.+?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.+?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the generated pages and pictures."""
    generated: dict[str, str | bytes] = {
        "reference/attentions.md": pages.attentions_page(),
        "reference/python.md": pages.python_page(),
        "reference/command.md": pages.command_page(),
    }
    for source, target in REPOSITORY_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for name, page in REPOSITORY_PAGES.items():
            text = text.replace(f"]({name})", f"]({page})")
        text = text.replace("](docs/", "](")
        generated[target] = text
    generated |= {f"assets/{name}": content for name, content in viewer_pictures().items()}
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in the tables."""
    fillers = {
        "ablations": ablation_pages,
        "attentions": pages.attention_table,
        "benchmarks": bench_section,
        "choosing": choosing_table,
        "recipe": pages.recipe_table,
        "zoo": zoo_table,
        "zoo-models": zoo_section,
    }
    for name, fill in fillers.items():
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", fill())
    return markdown


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the equations into MathML."""
    content = DISPLAY.sub(
        lambda m: f'<div class="equation">{convert(html.unescape(m[1].strip()), display="block")}</div>', content
    )
    return INLINE.sub(lambda m: convert(html.unescape(m[1])), content)
