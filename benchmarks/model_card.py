"""Writes the model card of a folder of the zoo: everything in it that is a fact comes from the folder's files.

Usage: python benchmarks/model_card.py [FOLDER ...]

By default all folders of `zoo/`. A card begins with metadata for the Hugging Face Hub; these and what stands between
its markers are generated. The words around the markers are written by hand and stay.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from card_training import data_texts, markdown_table, training_texts
from huggingface_hub import EvalResult, ModelCardData

import sparse_attn

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "zoo"
PUBLISHED = ROOT / "benchmarks" / "published.json"
MARKED = re.compile(r"(<!-- card:begin -->\n).*(<!-- card:end -->)", re.DOTALL)
METADATA = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
NO_WEIGHTS = "There are no weights yet: `pretrained=True` says so and names the models that have some."
TEMPLATE = """
# {model}

Enlarges pictures {scale} times.

```python
import sparse_attn

model = sparse_attn.create_model("{model}", pretrained=True)
sparse_attn.write_image("photo_x{scale}.png", sparse_attn.upscale(model, "photo.png"))
```

<!-- card:begin -->
<!-- card:end -->

## Limits

It knows one degradation, bicubic reduction of clean pictures: noise and JPEG blocks are enlarged with the rest, and
blurred photos stay blurred. It adds no detail that is not implied by the picture.
"""
Records = Mapping[str, Mapping[str, Any]]


def card(folder: Path, text: str | None = None) -> str:
    """The card of a folder.

    Args:
        folder: its name is the model's.
        text: the card there is; by default the folder's own, or a new one.

    Raises:
        ValueError: the card has no markers.
    """
    model = folder.name
    file = folder / "README.md"
    if text is None:
        text = file.read_text(encoding="utf-8") if file.is_file() else None
    if text is None:
        text = TEMPLATE.format(model=model, scale=sparse_attn.model_config(model)["scale"])
    body = METADATA.sub("", text)
    if not MARKED.search(body):
        raise ValueError(f"{file} lacks <!-- card:begin --> and <!-- card:end -->: put them around what is generated")
    made = generated(folder)
    return metadata(folder) + MARKED.sub(lambda found: f"{found[1]}\n{made}\n\n{found[2]}", body)


def metadata(folder: Path) -> str:
    """The YAML that the Hub reads."""
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name=f"Super-resolution ×{record['scale']}",
            dataset_type=name.lower(),
            dataset_name=name,
            metric_type=metric,
            metric_value=round(record[metric], digits),
        )
        for key, record in _load(folder / "results.json").items()
        for model, _, name in [key.partition("/")]
        if model == folder.name
        for metric, digits in (("psnr", 2), ("ssim", 4))
    ]
    data = ModelCardData(
        library_name="sparse_attn",
        license="apache-2.0",
        pipeline_tag="image-to-image",
        tags=["super-resolution", "non-local-sparse-attention"],
        metrics=["psnr", "ssim"] if results else None,
        model_name=folder.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def generated(folder: Path) -> str:
    """What stands between the markers."""
    parts = [_architecture(folder)]
    results = _load(folder / "results.json")
    training = _load(folder / "training.json")
    parts += ["## What it reaches", *(_results(folder.name, results) if results else [NO_WEIGHTS])]
    parts += ["## How it was trained", *training_texts(training, _log(folder / "log.jsonl"))]
    if (folder / "curves.svg").is_file():
        parts.append("![Loss and validation PSNR over the steps](curves.svg)")
    return "\n\n".join(map(_wrapped, [*parts, *data_texts(_load(folder / "training_data.json"), training)]))


def table(records: Records) -> str:
    """PSNR and SSIM, a row for each model and a column for each set; `–` where there is no figure."""
    sets = list(dict.fromkeys(key.partition("/")[2] for key in records))
    rows = [["", *sets]]
    for model in dict.fromkeys(key.partition("/")[0] for key in records):
        found = [records.get(f"{model}/{name}") for name in sets]
        cells = [f"{r['psnr']:.2f} / {r['ssim']:.4f}" if r else "–" for r in found]
        rows.append([model, *cells])
    return markdown_table(rows)


def published(model: str) -> dict[str, Any]:
    """The figures in print of the model, or of the network that it is a small form of; empty where there are none."""
    figures = _load(PUBLISHED)
    return dict(figures.get(model) or figures.get(re.sub(r"^nlsn.*_(x\d)$", r"nlsn_\1", model)) or {})


def _architecture(folder: Path) -> str:
    recorded = _load(folder / "config.json").get("config", {})
    config = {**sparse_attn.model_config(folder.name), **recorded}
    count = sum(p.numel() for p in sparse_attn.create_model(folder.name, device="meta", **recorded).parameters())
    groups = f"{config['n_resgroups']} groups of " if "n_resgroups" in config else ""
    text = f"{groups}{config['n_resblocks']} residual blocks, {config['n_feats']} wide"
    slots = config.get("attention_at") if config.get("attention") else None
    if slots:
        unit = "groups" if groups else "blocks"
        text += f", and `{config['attention']}` after {', '.join(map(str, slots))} {unit}"
    return f"{text}. {count:,} parameters."


def _results(model: str, results: Records) -> list[str]:
    scale = next(iter(results.values()))["scale"]
    print_row = published(model)
    name, source = print_row.pop("name", ""), print_row.pop("source", "")
    sets = {key.partition("/")[2] for key in results}
    rows = {**results, **{f"{name}/{images}": figures for images, figures in print_row.items() if images in sets}}
    texts = [
        f"PSNR in dB / SSIM on luminance (BT.601, not rounded), {scale} pixels cut from each border, grey images "
        "measured as they are. Kodak is the set the training was watched on; its small images were made by this "
        f"package's bicubic. Measured by `python benchmarks/zoo.py {model}`, on the files beside this card; "
        "the records are in `results.json`.",
        table(rows),
    ]
    if name:
        texts.append(f"The last row: {source}. Papers round in different ways, which moves the second decimal.")
    return texts


def _wrapped(text: str) -> str:
    if text.startswith(("|", "#", "```", "!")):
        return text
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _log(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _load(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def main() -> None:
    """Writes the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="by default all of zoo/ that have a recipe")
    folders = parser.parse_args().folders or sorted(file.parent for file in ZOO.glob("*/recipe.yaml"))
    for folder in folders:
        (folder / "README.md").write_text(card(folder.resolve()), encoding="utf-8")
        print(f"{folder}/README.md")


if __name__ == "__main__":
    main()
