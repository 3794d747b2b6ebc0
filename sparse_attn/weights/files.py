"""Weight files to state dicts: safetensors, sharded folders, and what `torch.save` wrote (never unpickled freely)."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from sparse_attn.errors import WeightsError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONTAINERS = ("state_dict", "model", "model_state_dict", "params", "params_ema")
# A checkpoint of this package's training: the averaged weights are those meant.
TRAINING = {"model", "ema"}
# DataParallel, torch.compile, and the attributes under which training code (Lightning's above all) keeps its network.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.", "net_g.", "netG.")

# What this package writes, as the Hub names it, and nothing that merely looks like it.
_WRITTEN = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors|model\.safetensors\.index\.json")

_OBJECT = "an object of"

Recorded = Mapping[str, Mapping[str, Any]]


def read_weights(path: str | Path, *, recorded_only: bool = False) -> dict[str, Tensor]:
    """Reads a state dict, on the CPU, in the dtypes it is stored in.

    Args:
        path: a `.safetensors` file, a folder in Hub form (`model.safetensors`, or shards and their index), or a file
            of `torch.save`, zip or older, which is loaded with `weights_only=True`. Files that a `config.json` beside
            them records are checked against its SHA-256.
        recorded_only: refuse files that no `config.json` records.

    Raises:
        WeightsError: missing, damaged, not what `config.json` records, or not a state dict.
    """
    path = Path(path)
    if not path.is_dir():
        return unwrap(read_object(path, recorded_only=recorded_only), str(path))
    index, state = _read_folder(path, recorded_only=recorded_only)
    return unwrap(state, str(index))


def read_object(path: Path, *, recorded_only: bool = False) -> object:
    """All that a file holds, as `read_weights` reads it: a state dict, or what training saved around one.

    Raises:
        WeightsError: missing, damaged, or not what `config.json` records.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}", remedy="check the path")
    recorded = _recorded_beside(path, recorded_only=recorded_only)
    if path.name.endswith(".index.json"):
        return _read_shards(path, recorded, recorded_only=recorded_only)
    _verify(path, recorded, recorded_only=recorded_only)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        if _start(path)[8:10] == b'{"':
            return _read_safetensors(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:
        raise _unreadable(path, error, "or it holds objects other than tensors, which are never unpickled") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder: `model`, `config` and `files`; empty where there is none.

    Raises:
        WeightsError: it is not a JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    return _read_json(path)


def unwrap(loaded: object, where: str) -> dict[str, Tensor]:
    """The state dict in `loaded`: itself, or the only one that a usual container key holds; wrapper prefixes go.

    Of a checkpoint of this package's training it is the averaged one.

    Raises:
        WeightsError: there is none, or more than one.
    """
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{where} is not a state dict", expected="names to tensors", got=type(loaded).__name__)
    if is_state_dict(loaded):
        return strip_wrappers(loaded)[1]
    inner = {key: value for key, value in loaded.items() if is_state_dict(value)}
    if set(inner) == TRAINING and "averaged" in loaded:
        return strip_wrappers(inner["ema"])[1]
    if len(inner) > 1:
        raise WeightsError(
            f"{where} holds several state dicts",
            got=", ".join(map(str, inner)),
            remedy="pass the one you want, not the file",
        )
    bare = any(isinstance(value, Tensor) for value in loaded.values())
    for key in CONTAINERS:
        if key in inner and not bare:
            return strip_wrappers(inner[key])[1]
    raise WeightsError(
        f"{where} is not a state dict",
        expected=f"names to tensors, alone or under {', '.join(CONTAINERS)}",
        got=", ".join(f"{key}: {type(value).__name__}" for key, value in list(loaded.items())[:8]) or "nothing",
        remedy="pass the state dict itself",
    )


def strip_wrappers(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The prefix that a wrapper, or several, put before every name, and the state dict without it."""
    prefix = ""
    names = list(state)
    while names and (wrapper := next((w for w in WRAPPERS if all(n.startswith(prefix + w) for n in names)), "")):
        prefix += wrapper
    return prefix, {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}


def is_weight_file(name: str) -> bool:
    """Whether `write_zoo_folder` gives weights, or their index, a file of this name."""
    return _WRITTEN.fullmatch(name) is not None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether a value is names to tensors, and not empty."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in value.items())
    )


def _unreadable(path: Path, error: Exception, otherwise: str = "") -> WeightsError:
    reason = _reason(path, error)
    if reason.startswith(_OBJECT):
        remedy = "objects other than tensors are never unpickled: save its weights alone, with the program that made it"
    else:
        remedy = " ".join(filter(None, ["it is damaged or cut short", otherwise])) + ": get it again"
    return WeightsError(f"cannot read weights {path}", got=reason, remedy=remedy)


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file, in a few words; torch's own advice is how to run the code in it."""
    text = str(error)
    try:
        start = _start(path).lstrip()
    except OSError as refused:
        return refused.strerror or str(refused)
    if not start:
        return "an empty file"
    if start.startswith(b"<"):
        return "a web page, as a server sends in place of a file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to"
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"{_OBJECT} {found[1]}"
    if "TorchScript" in text:
        return "a TorchScript program"
    if found := re.search(r"WeightsUnpickler error:\s+([^\n]+)", text):
        return f"no file of torch.save ({found[1]})"
    if isinstance(error, LookupError | OSError | EOFError | UnicodeDecodeError):
        return f"something that breaks off or is of another format ({type(error).__name__})"
    return text.strip().split("\n")[0][:200] or type(error).__name__


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} is not a JSON object", got=type(loaded).__name__, remedy="get it again")
    return loaded


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load, load_file

    try:
        # Its reader of files opens none whose name is not UTF-8; bytes it reads from anywhere.
        return load_file(path) if str(path).isprintable() else load(path.read_bytes())
    except Exception as error:
        raise _unreadable(path, error) from error


def _recorded_beside(path: Path, *, recorded_only: bool) -> dict[str, dict[str, Any]]:
    """What the `config.json` beside a file records; somebody else's has no say about a file that was asked for."""
    try:
        config = read_config(path.parent)
    except WeightsError:
        if recorded_only or is_weight_file(path.name):
            raise
        return {}
    own = isinstance(config.get("model"), str) and isinstance(config.get("config"), dict)
    return _recorded_files(path.parent) if own or recorded_only else {}


def _recorded_files(folder: Path) -> dict[str, dict[str, Any]]:
    files = read_config(folder).get("files", {})
    if not isinstance(files, dict) or not all(isinstance(f, dict) and "sha256" in f for f in files.values()):
        raise WeightsError(f"{folder / CONFIG} has bad files", expected="name: {sha256, bytes}", remedy="get it again")
    return files


def _verify(path: Path, recorded: Recorded, *, recorded_only: bool) -> None:
    if path.name not in recorded:
        if recorded_only:
            raise WeightsError(
                f"{path} is not recorded in {CONFIG}", expected="its SHA-256", remedy=f"get it and {CONFIG} again"
            )
        return
    remedy = f"{path.name} is damaged or of another version: get it and config.json again"
    wanted, size = recorded[path.name].get("bytes"), path.stat().st_size
    if wanted is not None and wanted != size:
        raise WeightsError(f"{path} has the wrong size", expected=f"{wanted} bytes", got=f"{size}", remedy=remedy)
    got = sha256(path)
    if got != recorded[path.name]["sha256"]:
        expected = recorded[path.name]["sha256"]
        raise WeightsError(f"{path} has the wrong SHA-256", expected=expected, got=got, remedy=remedy)


def _read_folder(folder: Path, *, recorded_only: bool) -> tuple[Path, dict[str, Tensor]]:
    recorded = _recorded_files(folder)
    # What config.json records decides: an interrupted rewrite may have left files of an older form beside it.
    names = [name for name in (SINGLE, INDEX) if name in recorded] or [SINGLE, INDEX]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise WeightsError(f"no weights in {folder}", expected=" or ".join(names), remedy="check the path")
    if path.name == INDEX:
        return path, _read_shards(path, recorded, recorded_only=recorded_only)
    _verify(path, recorded, recorded_only=recorded_only)
    return path, _read_safetensors(path)


def _read_shards(index: Path, recorded: Recorded, *, recorded_only: bool) -> dict[str, Tensor]:
    _verify(index, recorded, recorded_only=recorded_only)
    where = _read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(f, str) and Path(f).name == f for f in where.values()):
        raise WeightsError(f"{index} has a bad weight_map", expected="tensor name: file name", remedy="get it again")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(where.values())):
        path = index.parent / shard
        if not path.is_file():
            raise WeightsError(f"shard {shard} of {index} is missing", remedy="get it again")
        _verify(path, recorded, recorded_only=recorded_only)
        state.update(_read_safetensors(path))
    if set(state) != set(where):
        difference = ", ".join(sorted(set(state) ^ set(where)))
        raise WeightsError(f"{index} and its shards differ", got=difference, remedy="get them again")
    return state
