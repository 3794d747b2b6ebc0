"""Options that several sub-commands take, and the model they choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from sparse_attn.errors import ConfigError
from sparse_attn.factory import create_model, is_model, list_models, model_config, origin_of
from sparse_attn.factory.source import HUB, LOCAL

DEFAULT_MODEL = "nlsn_light_x{scale}"
DEFAULT_SCALE = 4

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A name of `sparse-attn models`, local-dir:FOLDER or hf-hub:ORGANISATION/NAME; by default "
        "nlsn_light_x<scale>.",
    ),
]
Scale = Annotated[int | None, typer.Option("--scale", "-s", help="Enlargement; by default the model's, or 4.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Weights to use instead of the pretrained ones: a file or a model folder.")
]
Tile = Annotated[
    int | None,
    typer.Option(min=0, help="Side of a tile in input pixels, 0 for none; by default as large as memory allows."),
]
Ensemble = Annotated[bool, typer.Option("--ensemble", help="Average over 8 flips and turns: better, 8 times slower.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...; by default cuda where there is one.")]


def choose_device(name: str | None) -> torch.device:
    """The device a person asked for, or the best one.

    Raises:
        ConfigError: no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"cannot use device {name!r}", got=first, remedy="use --device cpu") from error
    return device


def choose_model(
    name: str | None, scale: int | None, *, checkpoint: Path | None = None, device: str | None = None
) -> tuple[str, nn.Module]:
    """The name and the model, with weights, that the options mean.

    Raises:
        ConfigError: no model of that scale, the model has another, or a device that cannot be used.
        UnknownNameError: no such model; the message lists close matches.
        WeightsError: no weights to be had.
    """
    chosen = name or DEFAULT_MODEL.format(scale=DEFAULT_SCALE if scale is None else scale)
    if name is None and not is_model(chosen):
        known = sorted(int(model_config(n)["scale"]) for n in list_models(DEFAULT_MODEL.format(scale="*")))
        raise ConfigError("unsupported scale", expected=f"one of {', '.join(map(str, known))}", got=scale)
    elsewhere = chosen.startswith((HUB, LOCAL))
    if not elsewhere:
        _check_scale(chosen, scale, model_config(chosen).get("scale"))
    where = choose_device(device)
    if checkpoint is not None:
        model = create_model(chosen, checkpoint=checkpoint, device=where)
    else:
        model = create_model(chosen, pretrained=True, device=where)
    origin = origin_of(model)
    if elsewhere and origin is not None:
        _check_scale(chosen, scale, origin.config.get("scale"))
    return chosen, model


def _check_scale(name: str, wanted: int | None, own: int | None) -> None:
    if wanted is not None and own is not None and own != wanted:
        others = list_models(f"{name.removesuffix(f'_x{own}')}_x{wanted}")
        remedy = f"use --model {others[0]}" if others else "leave --scale out"
        raise ConfigError(f"{name} enlarges {own} times", expected=f"scale {own}", got=wanted, remedy=remedy)
