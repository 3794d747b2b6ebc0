"""Makes and measures a model of the zoo: `results.json` and the model card, and with --run the weights as well.

Usage: python benchmarks/zoo.py MODEL [--data FOLDER] [--zoo FOLDER] [--run FOLDER]

Measures the model, and bicubic beside it, on those of Set5, Set14 and Kodak that are there: the data folder, by
default `data`, holds `eval/Set5/x<scale>/{HR,LR}`, `eval/Set14/...` and `val/kodak`. Each record is what the
`sparse-attn evaluate` command it names wrote. With --run, which `sparse-attn train` made, its weights are first packed
into the zoo: what is measured are the files that are shipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from model_card import MARKED, card, table
from zoo_pack import pack

import sparse_attn
from sparse_attn.cli import app
from sparse_attn.errors import DataError, SparseAttnError
from sparse_attn.weights.zoo import ZOO_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "zoo"
SETS = {"Set5": "eval/Set5", "Set14": "eval/Set14", "Kodak": "val/kodak"}
MADE_BY_BICUBIC = {"Kodak"}
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def measure(model: str, images: str, *, scale: int, data: Path, zoo: Path, device: str | None = None) -> dict[str, Any]:
    """The record of one `sparse-attn evaluate`.

    Args:
        model: its name, or `bicubic`.
        images: one of `SETS`.
        scale: s.
        data: the data folder; the record names it without where it lies.
        zoo: whose weights are measured.
        device: where, or None for the command's choice.
    """
    arguments = [_folder(Path(data.name), images, scale).as_posix(), "--model", model]
    arguments += ["--scale", str(scale)] if model == "bicubic" else []
    arguments += ["--make-lr"] if images in MADE_BY_BICUBIC else []
    places = ["--device", device] if device else []
    before = os.environ.get(ZOO_VARIABLE)
    os.environ[ZOO_VARIABLE] = str(zoo)
    try:
        with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(data.parent):
            written = Path(temporary) / "record.json"
            # In this process: starting one costs seconds, and a rented GPU waits for it.
            app(["evaluate", *arguments, *places, "--json", str(written)], standalone_mode=False)
            record: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    finally:
        if before is None:
            del os.environ[ZOO_VARIABLE]
        else:
            os.environ[ZOO_VARIABLE] = before
    record["command"] = " ".join(["sparse-attn evaluate", *arguments])
    return record


def measure_all(model: str, *, data: Path, zoo: Path, device: str | None = None) -> dict[str, dict[str, Any]]:
    """The records of a model and of bicubic, on the sets there are.

    Raises:
        DataError: there are none.
    """
    scale = sparse_attn.model_config(model)["scale"]
    there = sets_there(data, scale)
    if not there:
        raise DataError(
            f"nothing to measure {model} on",
            expected=f"one of {', '.join(str(_folder(data, images, scale)) for images in SETS)}",
            remedy="sparse-attn data get set5",
        )
    records = {}
    for name in (model, "bicubic"):
        for images in there:
            record = measure(name, images, scale=scale, data=data, zoo=zoo, device=device)
            records[f"{name}/{images}"] = record
            print(f"{name} {images}: {record['psnr']:.4f} dB, {record['ssim']:.4f}", flush=True)
    return records


def sets_there(data: Path, scale: int) -> list[str]:
    """Those of `SETS` that the data folder holds."""
    return [images for images in SETS if _folder(data, images, scale).is_dir()]


def _folder(data: Path, images: str, scale: int) -> Path:
    return data / SETS[images] / ("" if images in MADE_BY_BICUBIC else f"x{scale}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--zoo", type=Path, default=ZOO, help="by default the checkout's")
    parser.add_argument("--run", type=Path, help="a folder that `sparse-attn train` made")
    parser.add_argument("--recipe", type=Path, help="what it was trained by; by default zoo/MODEL/recipe.yaml")
    parser.add_argument("--power", type=Path, help="readings of the board's power while it trained")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="that the weights are stored in")
    parser.add_argument("--device", help="by default CUDA where there is some")
    return parser.parse_args()


def main() -> None:
    """Packs, measures, writes, prints the table."""
    arguments = _arguments()
    data, zoo = arguments.data.resolve(), arguments.zoo.resolve()
    folder = zoo / arguments.model
    try:
        if arguments.run is not None:
            recipe = arguments.recipe or ZOO / arguments.model / "recipe.yaml"
            pack(arguments.run, folder, recipe=recipe, data=data, dtype=DTYPES[arguments.dtype], power=arguments.power)
        records = measure_all(arguments.model, data=data, zoo=zoo, device=arguments.device)
    except SparseAttnError as error:
        sys.exit(f"error: {error}")
    (folder / "results.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    # The words of the checkout's card are those of new weights, too.
    words = ZOO / folder.name / "README.md"
    text = words.read_text(encoding="utf-8") if words.is_file() and not (folder / "README.md").is_file() else None
    text = text if text and MARKED.search(text) else None
    (folder / "README.md").write_text(card(folder, text), encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
