"""From the folder of a run to one of the zoo: weights in shards, recipe, log, and records without private paths."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparse_attn.errors import DataError
from sparse_attn.training.energy import estimate
from sparse_attn.weights import read_config, read_weights, write_zoo_folder

MANIFEST = "manifest.json"
SHARD_BYTES = 16 * 2**20


def pack(
    run: Path, folder: Path, *, recipe: Path, data: Path, dtype: torch.dtype = torch.float16, power: Path | None = None
) -> None:
    """Writes what `run` made into `folder`, in the form of the zoo; a card and curves that are there stay.

    Args:
        run: made by `sparse-attn train`.
        folder: of the zoo; its name is the model's.
        recipe: what was trained.
        data: the data folder, whose `train/manifest.json`, if there is one, says where the images are from.
        dtype: that the weights are stored in.
        power: readings of `sparse_attn.training.energy`.

    Raises:
        DataError: the run has not finished.
        WeightsError: a weight is not finite in `dtype`.
    """
    model = folder.name
    made = run / model
    if not (made / "config.json").is_file():
        raise DataError(f"{run} holds no {model}", expected=f"{made}/config.json", remedy="train it to the end first")
    config = read_config(made)["config"]
    write_zoo_folder(folder, read_weights(made), model=model, config=config, dtype=dtype, shard_bytes=SHARD_BYTES)
    if recipe.resolve() != (folder / "recipe.yaml").resolve():
        shutil.copyfile(recipe, folder / "recipe.yaml")
    log = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(portable(json.loads(line)))}\n" for line in log))
    if (made / "training.json").is_file():
        training = json.loads((made / "training.json").read_text(encoding="utf-8"))
        energy = estimate(training["seconds"], device=training["device"], threads=training["threads"], readings=power)
        training = {**portable(training), "energy": energy and energy.to_dict()}
        (folder / "training.json").write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    manifest = data / "train" / MANIFEST
    if manifest.is_file():
        shutil.copyfile(manifest, folder / "training_data.json")


def portable(value: Any) -> Any:
    """The same without where things lie on this machine: of an absolute path only the last name stays.

    In a string of several words, as a command, of each of them.
    """
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    short = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return shlex.join(short) if short != words else value
