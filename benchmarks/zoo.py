"""Measures a model of the zoo, and bicubic beside it, on Set5, Set14 and Kodak; writes its `results.json`.

Usage: python benchmarks/zoo.py MODEL [--data FOLDER]

FOLDER, by default `data`, holds `eval/Set5/x<scale>/{HR,LR}`, `eval/Set14/...` and `val/kodak`. Each record is what
the `sparse-attn evaluate` command it names wrote; the table goes into the model card between its markers.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import sparse_attn

ZOO = Path(__file__).resolve().parent.parent / "zoo"
MARKED = re.compile(r"(<!-- results:begin -->\n).*?(<!-- results:end -->)", re.DOTALL)


def measure(model: str, scale: int, folder: Path, *, make_lr: bool) -> dict[str, Any]:
    """The record of one `sparse-attn evaluate`."""
    arguments = [str(folder), "--model", model, *(["--scale", str(scale)] if model == "bicubic" else [])]
    arguments += ["--make-lr"] if make_lr else []
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary) / "record.json"
        subprocess.run(
            [sys.executable, "-m", "sparse_attn.cli", "evaluate", *arguments, "--json", str(written)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        record: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    record["command"] = " ".join(["sparse-attn evaluate", *arguments])
    return record


def table(records: dict[str, dict[str, Any]]) -> str:
    """PSNR and SSIM, a row for each model and a column for each set."""
    sets = list(dict.fromkeys(key.partition("/")[2] for key in records))
    lines = ["| | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]
    for model in dict.fromkeys(key.partition("/")[0] for key in records):
        cells = [
            f"{records[f'{model}/{name}']['psnr']:.2f} / {records[f'{model}/{name}']['ssim']:.4f}" for name in sets
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, writes, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    scale = sparse_attn.model_config(arguments.model)["scale"]
    records = {}
    for model in (arguments.model, "bicubic"):
        for name, make_lr in (("eval/Set5", False), ("eval/Set14", False), ("val/kodak", True)):
            folder = arguments.data / name / ("" if make_lr else f"x{scale}")
            record = measure(model, scale, folder, make_lr=make_lr)
            title = Path(name).name
            records[f"{model}/{title[:1].upper() + title[1:]}"] = record
            print(f"{model} {title}: {record['psnr']:.4f} dB, {record['ssim']:.4f}", flush=True)
    folder = ZOO / arguments.model
    (folder / "results.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        card.write_text(MARKED.sub(lambda m: f"{m[1]}\n{table(records)}\n\n{m[2]}", text), encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
