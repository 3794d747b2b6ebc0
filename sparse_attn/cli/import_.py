"""`sparse-attn import`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sparse_attn.errors import ConfigError, DataError
from sparse_attn.factory import create_model, list_models, model_config
from sparse_attn.weights.containers import Opened, open_checkpoint
from sparse_attn.weights.files import sha256
from sparse_attn.weights.imported import Provenance, check_target, plain, write_imported
from sparse_attn.weights.layouts import fit_weights
from sparse_attn.weights.recognise import Recognised, recognise

FAMILIES = {"edsr": "EDSR", "rcan": "RCAN", "nlsn": "NLSN"}


class Dtype(StrEnum):
    """How weights may be stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def command(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pt, .pth, .ckpt, .bin or .safetensors.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write; by default FILE without its ending.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="A name of `sparse-attn models` to file it under; by default the nearest.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Which network, where FILE holds several: params, params_ema, generator ...")
    ] = None,
    rgb_range: Annotated[float | None, typer.Option(help="The value of white, 1 or 255, if FILE does not say.")] = None,
    res_scale: Annotated[float | None, typer.Option(help="The factor on residual branches of EDSR and NLSN.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Store weights so; by default as FILE does.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder of an earlier import.")] = False,
) -> None:
    """Turn somebody else's checkpoint into a model folder.

    Knows the EDSR, RCAN and NLSN of their authors and the EDSR and RCAN of BasicSR, bare or as training saved them
    (params_ema, Lightning, DataParallel). Says what it found and what it assumed; what it does not know it refuses,
    and then nothing is written. Pickles are read as data only, never run.
    """
    if file.is_dir():
        raise DataError(f"{file} is a folder", expected="a checkpoint file", remedy="name the file in it")
    folder = out or file.parent / file.name.removesuffix(file.suffix)
    # Of a file without an ending it would be the file itself.
    folder = file.with_name(f"{file.name}_imported") if folder == file else folder
    check_target(folder, overwrite=overwrite)
    opened = open_checkpoint(file, key=key)
    found = recognise(opened.weights, rgb_range=rgb_range, res_scale=res_scale, settings=opened.settings)
    model = _nearest(found) if name is None else _checked_name(name, found)
    network = create_model(model, **found.config)
    weights = fit_weights(network, found.weights, str(file))
    network.load_state_dict(weights)
    provenance = Provenance(
        source=file.name,
        digest=sha256(file),
        layout=_layout(found, opened),
        shape=_shape(found.config),
        assumed=found.assumed,
        left=opened.left,
        use=_use(Path(folder.resolve().name), model, found.config),
    )
    stored = None if dtype is None else getattr(torch, dtype)
    write_imported(folder, weights, provenance, model=model, config=found.config, dtype=stored, overwrite=overwrite)
    typer.echo(plain(f"{file}: {provenance.layout}, {provenance.shape}"))
    for line in found.assumed:
        typer.echo(f"assumed: {line}")
    for line in opened.left:
        typer.echo(plain(f"left out: {line}"))
    typer.echo(f"wrote {plain(str(folder))}: {model}, {sum(p.numel() for p in network.parameters()):,} parameters")
    typer.echo(_use(folder, model, found.config))


def _checked_name(name: str, found: Recognised) -> str:
    """The name, if its model is a network of the same kind and scale, to which depth and width may be given."""
    nearest = _nearest(found)
    own, usual = model_config(name), model_config(nearest)
    # Of a scale that no registered model has, any will do.
    rescaled = own.get("scale") != found.config["scale"] == usual["scale"]
    if rescaled or any(bool(own.get(field)) != bool(usual.get(field)) for field in ("n_resgroups", "attention")):
        raise ConfigError(
            f"{name} is another network than that of the file",
            expected=f"a name for {FAMILIES[found.family]} x{found.config['scale']}, such as {nearest}",
            remedy="drop --name",
        )
    return name


def _nearest(found: Recognised) -> str:
    """The registered model of this family whose configuration differs least."""
    names = list_models(f"{found.family}_*")

    def distance(name: str) -> tuple[bool, int]:
        own = model_config(name)
        return own["scale"] != found.config["scale"], len(_differences(name, found.config))

    return min(names, key=distance)


def _differences(model: str, config: dict[str, Any]) -> dict[str, Any]:
    own = model_config(model)
    return {field: value for field, value in config.items() if own.get(field) != value}


def _layout(found: Recognised, opened: Opened) -> str:
    where = f", under {' / '.join(opened.where)}" if opened.where else ""
    return f"{found.layout} {FAMILIES[found.family]}{where}"


def _shape(config: dict[str, Any]) -> str:
    groups = f"{config['n_resgroups']} groups of " if "n_resgroups" in config else ""
    places = config.get("attention_at")
    attention = f", attention at {', '.join(map(str, places))}" if places else ""
    return (
        f"x{config['scale']}, {groups}{config['n_resblocks']} blocks, {config['n_feats']} wide{attention}, "
        f"{config['in_chans']} colours of 0 to {config['rgb_range']:g}"
    )


def _use(folder: Path, model: str, config: dict[str, Any]) -> str:
    changed = "".join(f", {field}={json.dumps(value)}" for field, value in _differences(model, config).items())
    path = folder.as_posix()
    return (
        f"model = sparse_attn.create_model({_quoted(f'local-dir:{path}')}, pretrained=True)\n"
        "# or, with the configuration spelt out:\n"
        f'model = sparse_attn.create_model("{model}", checkpoint={_quoted(path)}{changed})'
    )


def _quoted(text: str) -> str:
    """A Python string, which any file can take."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)
