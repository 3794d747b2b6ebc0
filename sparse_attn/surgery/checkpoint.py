"""Checkpoints that remember what was done to the network they are of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn import weights
from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.surgery.edits import checked_edit, do_edits, model_edits
from sparse_attn.surgery.record import arguments_of, attention_settings, bare

METADATA = "sparse_attn.edits"
SUFFIX = ".safetensors"
FOLDER_FILE = "model.safetensors"


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Writes a network's weights, and what `insert_attention` and `swap_attention` did to it, as one safetensors file.

    The file is written beside its place and renamed: an interruption leaves the old one. Weights keep their dtypes. A
    compiled or distributed wrapper is looked through.

    Args:
        model: any network.
        path: a file name that ends in `.safetensors`; its folder is made where it does not exist.

    Raises:
        ConfigError: another ending, or edits that cannot be described, see `model_edits`.
        WeightsError: weights on the meta device, or a state dict that holds something other than tensors.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError("bad path for a checkpoint", expected=f"a name ending in {SUFFIX}", got=str(path))
    state = {name: _stored(name, tensor) for name, tensor in bare(model).state_dict().items()}
    metadata = {"format": "pt"}
    edits = model_edits(model)
    if edits:
        metadata[METADATA] = json.dumps(edits)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # safetensors' own save_file makes files that only their owner may read.
        beside.write_bytes(save(state, metadata=metadata))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> None:
    """Loads weights strictly: all of them fit, or nothing is loaded.

    Names may be this package's, those of the authors' EDSR, RCAN and NLSN, or those of BasicSR's EDSR and RCAN. Values
    are cast to the model's dtypes. BasicSR's files hold no colour shift: the model keeps its own, and a warning says so
    where its `rgb_range` is not BasicSR's usual 255.

    A file of `save_checkpoint` may hold edits: attentions that were inserted or exchanged. A model without any gets
    them first; one that has the same is loaded as it is and keeps the settings that `configure_attention` may change.

    Args:
        model: any module; for the foreign layouts one with this package's backbone names. For a file with edits, the
            network as it was before them, or as it was after.
        path_or_state_dict: a `.safetensors` file, a folder in Hub form (`model.safetensors`, or shards and their
            index), a file of `torch.save`, or a state dict. Files that a `config.json` beside them records are checked
            against its SHA-256.

    Raises:
        WeightsError: unreadable, for another range of colours, or not fitting: every missing, unexpected and misshapen
            name is in the message; or the model has other edits than the file. Then the model is as it was.
        ConfigError: the file's edits do not fit the model, or it is compiled or wrapped and has none yet.
        UnknownNameError: the edits name an attention or a setting that is not known here.
    """
    given = [] if isinstance(path_or_state_dict, Mapping) else read_edits(Path(path_or_state_dict))
    edits = [checked_edit(edit) for edit in given]
    own = model_edits(model) if edits else []
    if own and _lasting(own) != _lasting(edits):
        raise WeightsError(
            f"{path_or_state_dict} is of a network with other attentions",
            expected=_short(edits),
            got=_short(own),
            remedy="load it into the unchanged network, which gets the same ones",
        )
    undo = do_edits(model, edits) if edits and not own else []
    try:
        weights.load_checkpoint(model, path_or_state_dict)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def read_edits(path: Path) -> list[dict[str, Any]]:
    """The edits that a safetensors file or folder holds: in the `config.json` that records it, or in the file.

    Returns:
        None of them where there is no such file.

    Raises:
        WeightsError: they are not readable.
    """
    from safetensors import SafetensorError, safe_open

    recorded = _recorded(path)
    if "edits" in recorded:
        return _edit_list(recorded["edits"], path)
    file = path / FOLDER_FILE if path.is_dir() else path
    if file.suffix != SUFFIX or not file.is_file():
        return []
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(METADATA, "[]")
    except SafetensorError:
        # Reading the weights says what is wrong with the file.
        return []
    try:
        edits = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{file} has unreadable edits", got=str(error), remedy="get it again") from error
    return _edit_list(edits, file)


def _recorded(path: Path) -> dict[str, Any]:
    """The `config.json` of a folder, or the one beside a file if it records that."""
    if path.is_dir():
        return weights.read_config(path)
    try:
        recorded = weights.read_config(path.parent)
    except WeightsError:
        # Reading the weights says whether that matters.
        return {}
    files = recorded.get("files")
    return recorded if isinstance(files, dict) and path.name in files else {}


def _edit_list(edits: object, path: Path) -> list[dict[str, Any]]:
    if not isinstance(edits, list):
        raise WeightsError(f"{path} has unreadable edits", expected="a list", got=type(edits).__name__)
    return edits


def _stored(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise WeightsError(f"{name} cannot be saved", expected="a tensor", got=type(value).__name__)
    if value.is_meta:
        raise WeightsError("the model is on the meta device", got=name, remedy="build it on a real device")
    # safetensors refuses tensors that share memory.
    return value.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _lasting(edits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Edits without what may differ between two builds of the same function: settings that can change later."""
    lasting = []
    for edit in edits:
        loose = {"zero_init", *attention_settings(edit["attention"])}
        known = {name: value for name, value in arguments_of(edit["attention"]).items() if name not in loose}
        settings = {name: value for name, value in edit["settings"].items() if name not in loose}
        place = {key: value for key, value in edit.items() if key not in ("settings", "was", "dtype")}
        lasting.append({**place, "settings": {**known, **settings}})
    return lasting


def _short(edits: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{edit['attention']} at {edit.get('after') or edit.get('at')}" for edit in edits)
