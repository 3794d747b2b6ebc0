"""The part of a model card about training: recipe, stages, time, machine, energy, data and licences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_YET = (
    "Not yet. `recipe.yaml` is ready: `zoo/train_gpu.sh MINUTES DATA OUT` checks the machine, measures and trains."
)
AVERAGED = (
    "L1 loss. The weights were averaged on the way (EMA), and the average at the end is what is here: no checkpoint "
    "was picked."
)
LICENCE = (
    "`training_data.json` is the full manifest with commits. The weights are released under the Apache License 2.0, "
    "like the code; the photos, which are not shipped, keep their own licences:"
)
_COLUMNS = {
    "stage": "name",
    "steps": "steps",
    "patches a step": "batch",
    "LR patch": "patch",
    "optimizer": "optimizer",
    "peak rate": "lr",
    "attention": "attention",
    "minutes": "minutes",
}
Line = Mapping[str, Any]


def training_texts(training: Line, log: Sequence[Line]) -> list[str]:
    """Paragraphs on how it was trained.

    Args:
        training: `training.json`, or what there is of it.
        log: the lines of `log.jsonl`, which tell the steps and the time where `training` does not.
    """
    stages = training.get("stages") or _stages(log)
    if not stages:
        return [NOT_YET]
    texts = ["The recipe is `recipe.yaml`" + (", the log `log.jsonl`." if log else ".")]
    if training.get("command"):
        texts.append(f"```sh\n{training['command']}\n```")
    texts.append(
        markdown_table([list(_COLUMNS), *([_cell(_minutes(s).get(c)) for c in _COLUMNS.values()] for s in stages)])
    )
    sentences = [f"Started from {_init(training)}.", AVERAGED] if training else [AVERAGED]
    ends = {line["stage"]: line["val_psnr"] for line in log if "val_psnr" in line}
    if ends:
        psnr = "; ".join(f"{name} {value:.2f} dB" for name, value in ends.items())
        sentences.append(f"Mean validation PSNR at the end of each stage, as the training measured it: {psnr}.")
    return [*texts, " ".join(sentences), _cost(training, stages, log)]


def data_texts(manifest: Line, training: Line) -> list[str]:
    """Paragraphs on the images and their licences.

    Args:
        manifest: `training_data.json`.
        training: `training.json`.
    """
    if not training and not manifest:
        return []
    if not manifest:
        data = training.get("data", {})
        return ["## Data and licence", f"{data.get('images', '–')} images whose sources are not recorded."]
    rows = [[s["source"], f"<{s['repo']}>", s["licence"], str(s["tiles"])] for s in manifest.get("sources", [])]
    return [
        "## Data and licence",
        f"{manifest['tiles']:,} tiles ({manifest['megapixels']:.0f} megapixels); {LICENCE}",
        markdown_table([["source", "repository", "licence", "tiles"], *rows]),
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _cost(training: Line, stages: Sequence[Line], log: Sequence[Line]) -> str:
    steps, minutes = sum(stage["steps"] for stage in stages), _seconds(training, log) / 60
    text = f"{steps:,} steps in {minutes:.0f} minutes{_place(training) or '; the machine is not recorded'}"
    if training.get("torch"):
        text += f", PyTorch {training['torch']}, {str(training.get('date', ''))[:10]}"
    energy = training.get("energy")
    if energy:
        text += (
            f". Energy: {energy['kwh']:.2g} kWh = {energy['hours']:.3f} h × {energy['watts']:.0f} W; the power is "
            f"{energy['source']}"
        )
    return f"{text}."


def _seconds(training: Line, log: Sequence[Line]) -> float:
    return float(training.get("seconds") or max((line.get("seconds", 0.0) for line in log), default=0.0))


def _place(training: Line) -> str:
    machine = training.get("machine") or {}
    if machine.get("gpu"):
        return f" on {machine['gpu']}"
    threads = training.get("threads", 1)
    return f" on {threads} thread{'s' if threads > 1 else ''} of {machine['cpu']}" if machine.get("cpu") else ""


def _init(training: Line) -> str:
    return f"weights of `{training['init']}`" if training.get("init") else "random weights"


def _stages(log: Sequence[Line]) -> list[dict[str, Any]]:
    """What a log alone tells of the stages."""
    stages: dict[str, dict[str, Any]] = {}
    before = 0.0
    for line in log:
        if "seconds" in line:
            stage = stages.setdefault(line["stage"], {"name": line["stage"], "begun": before, "lr": 0.0})
            before = line["seconds"]
            stage |= {"steps": line["step"], "seconds": before - stage["begun"], "lr": max(stage["lr"], line["lr"])}
    return list(stages.values())


def _minutes(stage: Line) -> dict[str, Any]:
    return {**stage, "minutes": f"{stage['seconds'] / 60:.1f}" if "seconds" in stage else None}


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)
