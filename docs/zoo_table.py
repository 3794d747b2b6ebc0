"""Tables of what the models of `zoo/` reach, from their `results.json`: for the documentation and for the README.

Usage: python docs/zoo_table.py [--readme]

Prints the table; with --readme also puts it between the README's markers.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sparse_attn

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "zoo"
README = ROOT / "README.md"
MARKED = re.compile(r"(<!-- zoo:begin -->\n).*?(<!-- zoo:end -->)", re.DOTALL)
NOTHING_YET = "No weights have been measured yet."


@dataclass(frozen=True)
class Measured:
    """One line of a `results.json`: what `sparse-attn evaluate --json` wrote."""

    model: str
    scale: int
    ensemble: bool
    images: str
    psnr: float
    ssim: float
    command: str | None

    @classmethod
    def read(cls, record: dict[str, Any]) -> Measured:
        """The set of images is named after its folder, `Set5` for `eval/Set5/x4`."""
        parts = [part for part in re.split(r"[/\\]", record["folder"]) if part and not re.fullmatch(r"x\d", part)]
        name = parts[-1] if parts else record["folder"]
        return cls(
            model=record["model"],
            scale=record["scale"],
            ensemble=record.get("ensemble", False),
            images=name[:1].upper() + name[1:],
            psnr=record["psnr"],
            ssim=record["ssim"],
            command=record.get("command"),
        )


def zoo_models(zoo: Path = ZOO) -> list[Path]:
    """The folders that hold a measured model, sorted."""
    return sorted(file.parent for file in zoo.glob("*/results.json") if (file.parent / "config.json").is_file())


def measured(folder: Path) -> list[Measured]:
    """The lines of a model's `results.json`: a list of records, or a mapping of names to them."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [Measured.read(record) for record in (content.values() if isinstance(content, dict) else content)]


def parameters(name: str) -> str:
    """How many numbers were trained."""
    model = sparse_attn.create_model(name, device="meta")
    return f"{sum(p.numel() for p in model.parameters()):,}"


def trained(folder: Path) -> dict[str, Any]:
    """The model's `training.json`: how long it was trained, where and when; empty where that is not recorded."""
    file = folder / "training.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def _cost(folder: Path) -> str:
    """Steps and minutes of training in a few words."""
    record = trained(folder)
    return f"{record['steps']:,} steps, {record['seconds'] / 60:.0f} min" if record else ""


def zoo_table(zoo: Path = ZOO) -> str:
    """A row for each model, and for whatever else was measured on the same images; a column for each set of images.

    Where training is on record, there is a column for what it took.
    """
    lines = [line for folder in zoo_models(zoo) for line in measured(folder)]
    if not lines:
        return NOTHING_YET
    columns = list(dict.fromkeys(line.images for line in lines))
    rows: dict[tuple[int, bool, str, bool], dict[str, str]] = {}
    for line in lines:
        row = rows.setdefault((line.scale, sparse_attn.is_model(line.model), line.model, line.ensemble), {})
        row[line.images] = f"{line.psnr:.2f} / {line.ssim:.4f}"
    costs = {folder.name: _cost(folder) for folder in zoo_models(zoo)}
    told = any(costs.values())
    table = [
        f"| model | scale | parameters |{' trained |' if told else ''} {' | '.join(columns)} |",
        "|---|---|--:|" + "---|" * (len(columns) + told),
    ]
    for (scale, is_model, name, ensemble), row in sorted(rows.items()):
        label = f"`{name}`" + (", mean of 8 flips and turns" if ensemble else "") if is_model else name
        cells = " | ".join(row.get(column, "") for column in columns)
        cost = f" {costs.get(name, '')} |" if told else ""
        table.append(f"| {label} | ×{scale} | {parameters(name) if is_model else ''} |{cost} {cells} |")
    return "\n".join(table)


def zoo_section(zoo: Path = ZOO) -> str:
    """For each model: how to get it, how it was trained, and how it was measured."""
    return "\n\n".join(_about(folder) for folder in zoo_models(zoo))


def _about(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = sum(file["bytes"] for name, file in config["files"].items() if name.endswith(".safetensors"))
    parts = [
        f"## {folder.name}",
        f"{parameters(folder.name)} parameters, {size / 1e6:.1f} MB: "
        f'`sparse_attn.create_model("{folder.name}", pretrained=True)`. '
        f"Data, licences and machine are in its model card, `zoo/{folder.name}/README.md`.",
    ]
    record = trained(folder)
    if record:
        machine = record.get("machine", {})
        place = machine.get("gpu") or f"{record['threads']} threads of {machine.get('cpu', 'an unknown processor')}"
        parts.append(f"Trained on {record['date'][:10]} for {_cost(folder)}, on {place}.")
    recipe = folder / "recipe.yaml"
    if recipe.is_file():
        parts.append(f"Trained by its recipe:\n\n```yaml\n{recipe.read_text(encoding='utf-8').strip()}\n```")
    commands = [line.command for line in measured(folder) if line.command]
    if commands:
        parts.append("Measured by:\n\n```sh\n" + "\n".join(dict.fromkeys(commands)) + "\n```")
    return "\n\n".join(parts)


def readme_with_table(text: str, zoo: Path = ZOO) -> str:
    """The README's text with the table between its markers."""
    return MARKED.sub(lambda match: f"{match[1]}\n{zoo_table(zoo)}\n\n{match[2]}", text)


if __name__ == "__main__":
    print(zoo_table())
    if "--readme" in sys.argv[1:]:
        README.write_text(readme_with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
