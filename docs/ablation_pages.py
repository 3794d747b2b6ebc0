"""What `sparse-attn reproduce` wrote about the paper's tables and figures, put into the documentation.

Usage: python docs/ablation_pages.py

Prints it. The pages are `benchmarks/ablations/*.md` as the command left them, the charts `docs/assets/ablations/*.svg`.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "benchmarks" / "ablations"
NOTHING_YET = "This copy of the documentation was built without measurements."


def ablation_pages(folder: Path = PAGES) -> str:
    """All of them, tables first, as sections of a page."""
    found = sorted(folder.glob("*.md"), key=lambda path: (not path.stem.startswith("table"), path.stem))
    return "\n\n".join(_section(path) for path in found) or NOTHING_YET


def _section(path: Path) -> str:
    text = path.read_text(encoding="utf-8").strip()
    text = re.sub(r"^# (.+)$", rf"### \1 {{ #{path.stem} }}", text, flags=re.MULTILINE)
    return re.sub(r"\]\((\w+\.svg)\)", r"](assets/ablations/\1)", text)


if __name__ == "__main__":
    print(ablation_pages())
