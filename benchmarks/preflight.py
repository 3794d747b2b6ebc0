"""Whether a machine can train a recipe, before it costs anything: packages, device, memory, disk, data, and a start.

Usage: python benchmarks/preflight.py RECIPE --data FOLDER --out FOLDER [--init WEIGHTS] [--settings FILE]

Prints a line for each. Decodes the training images, so that no training time is spent on it. FILE gets the words for
`sparse-attn train` that say which weights to start from, one a line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from sparse_attn.backbones import models
from sparse_attn.cli.options import choose_device
from sparse_attn.cli.train import with_data
from sparse_attn.data import build_cache, iter_images
from sparse_attn.errors import ConfigError, DataError, SparseAttnError
from sparse_attn.inference.memory import free_memory
from sparse_attn.training import Recipe
from sparse_attn.weights import find_pretrained, list_pretrained, read_config, read_weights
from zoo import SETS, sets_there

NEEDED = ("accelerate", "timm")
# Of what the weights take in float32: themselves, gradients, two moments of Adam, their average.
COPIES_IN_MEMORY = 5
# Weights, average and moments, in the newest two checkpoints, the best one and the one being written.
COPIES_ON_DISK = 16
FILES = 200e6
# Whatever else two configurations differ in makes other shapes.
MAY_DIFFER = frozenset({"scale", "attention", "attention_at", "attention_kwargs"})
RANDOM = Path("none")
Say = Callable[[str], None]


def check_packages() -> str:
    """Python, PyTorch, and what training needs beside them.

    Raises:
        ConfigError: one is missing.
    """
    versions = []
    for name in ("torch", *NEEDED):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                "a package is missing", expected=name, got="not installed", remedy=f"pip install {name}"
            ) from None
    return f"python {platform.python_version()}, {', '.join(versions)}"


def check_device(device: torch.device, *, weights: int) -> str:
    """The device, and room on it for the weights and what training keeps of them.

    Args:
        device: where.
        weights: bytes of all parameters in float32.

    Raises:
        ConfigError: too little memory is free.
    """
    free, needed = free_memory(device), COPIES_IN_MEMORY * weights
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
        text = f"{name}, {bf16} bf16"
    else:
        text = f"no CUDA device is used: everything runs on {device.type}, {torch.get_num_threads()} threads"
    if free < needed:
        raise ConfigError(
            f"too little memory is free on {device}",
            expected=f"more than {needed / 1e9:.1f} GB, which the weights alone take",
            got=f"{free / 1e9:.1f} GB",
            remedy="end what else uses it, or take a larger machine",
        )
    return f"{text}, {free / 1e9:.1f} GB free"


def check_disk(out: Path, *, weights: int) -> str:
    """Room for checkpoints and results.

    Raises:
        DataError: too little.
    """
    free, needed = shutil.disk_usage(out).free, COPIES_ON_DISK * weights + FILES
    if free < needed:
        raise DataError(
            f"too little room in {out}",
            expected=f"{needed / 1e9:.1f} GB for checkpoints",
            got=f"{free / 1e9:.1f} GB",
            remedy="free some, or name another folder",
        )
    return f"{free / 1e9:.1f} GB free in {out}, {needed / 1e9:.1f} are needed"


def check_data(recipe: Recipe, *, say: Say) -> str:
    """The images, decoded.

    Raises:
        DataError: there are none.
    """
    cache = build_cache(
        Path(recipe.train), models.get(recipe.model).full_config(**recipe.model_config)["scale"], progress=say
    )
    first, _ = next(iter(iter_images(Path(recipe.val))))
    return f"{len(cache)} training images in {recipe.train}, validation images in {recipe.val} ({first} ...)"


def find_start(recipe: Recipe) -> tuple[Path | None, str]:
    """The best weights there are for a recipe, and why: its model's own, else those of the nearest relation.

    A relation has the same blocks: only scale and attention may differ. Of several, one of the same scale comes first.
    """
    wanted = {**models.get(recipe.model).full_config(), **recipe.model_config}
    found = []
    for name in list_pretrained():
        folder = find_pretrained(name)
        config = read_config(folder).get("config", {})
        known = models.get(name).full_config(**config) if name in models else config
        if all(known.get(key) == value for key, value in wanted.items() if key not in MAY_DIFFER):
            found.append((name != recipe.model, known.get("scale") != wanted.get("scale"), name, folder))
    if not found:
        blocks = ", ".join(f"{k} {v}" for k, v in wanted.items() if k in ("n_resgroups", "n_resblocks", "n_feats"))
        return None, f"random weights: no model with weights has its blocks ({blocks})"
    relation, _, name, folder = min(found)
    return folder, f"the weights of {name}, " + ("its nearest relation" if relation else "its own so far")


def start_words(recipe: Recipe, init: Path | None) -> tuple[list[str], str]:
    """What `sparse-attn train` is told about the start, and the same for people.

    Where the weights have attention, no stage may empty the slots: it would be lost.

    Raises:
        WeightsError: `init` is not a file or folder of weights.
    """
    if init == RANDOM:
        return [], "random weights, as asked"
    if init is not None:
        source, why = init, f"the weights of {init}, as asked"
    elif recipe.init is not None and recipe.model not in list_pretrained():
        source, why = Path(recipe.init), f"the weights of {recipe.init}, the recipe's own choice"
    else:
        found, why = find_start(recipe)
        if found is None:
            return [], why
        source = found
    weights = read_weights(source)
    entry = models.get(recipe.model)
    with torch.device("meta"):
        wanted = entry.build(**recipe.model_config).state_dict()
        bare = entry.build(**{**recipe.model_config, "attention": None}).state_dict()
    attention = set(wanted) - set(bare)
    words = ["--init", str(source)]
    if attention and attention <= set(weights):
        empty = [stage.name for stage in recipe.stages if not stage.attention]
        words += [word for name in empty for word in ("--set", f"stages.{name}.attention=true")]
    return words, why


def main() -> None:
    """Checks one after the other, and ends with code 2 at what cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights to start from, or `none`; by default the zoo's best")
    parser.add_argument("--device", help="by default CUDA where there is some")
    parser.add_argument("--settings", type=Path)
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        say(check_packages())
        recipe = with_data(arguments.recipe, arguments.data)
        with torch.device("meta"):
            model = models.get(recipe.model).build(**recipe.model_config)
        weights = 4 * sum(p.numel() for p in model.parameters())
        say(check_device(choose_device(arguments.device), weights=weights))
        say(check_disk(arguments.out, weights=weights))
        say(check_data(recipe, say=say))
        sets = sets_there(arguments.data, models.get(recipe.model).full_config(**recipe.model_config)["scale"])
        say(f"will be measured on {', '.join(sets) or 'nothing: there is none of ' + ', '.join(SETS)}")
        words, why = start_words(recipe, arguments.init)
    except SparseAttnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    say(f"starts from {why}")
    if arguments.settings is not None:
        arguments.settings.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")


if __name__ == "__main__":
    main()
