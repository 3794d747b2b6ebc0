"""The zoo: `<model>/` folders in Hub form, written whole, and found here, in the wheel, or on the Hub."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.weights.files import CONFIG, INDEX, SINGLE, is_weight_file, sha256
from sparse_attn.weights.hub import HubAccess, download

ZOO_VARIABLE = "SPARSE_ATTN_ZOO"
SHARD_BYTES = 16 * 2**20
STORED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def zoo_folders() -> list[Path]:
    """Where model folders are looked for: `$SPARSE_ATTN_ZOO`, a checkout's `zoo/`, what the wheel bundles."""
    package = Path(__file__).resolve().parent.parent
    folders = [Path(os.environ[ZOO_VARIABLE])] if os.environ.get(ZOO_VARIABLE) else []
    # Beside an installed package, `zoo` would be somebody else's.
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "zoo")
    return [*folders, package / "_zoo"]


def list_pretrained() -> list[str]:
    """The sorted names of the models whose weights are on this machine's zoo folders."""
    return sorted({f.name for zoo in zoo_folders() if zoo.is_dir() for f in zoo.iterdir() if _has_weights(f)})


def local_weights(name: str) -> Path | None:
    """The file in a zoo folder here that holds a model's weights, or lists their shards; None where there is none."""
    folder = next((zoo / name for zoo in zoo_folders() if _has_weights(zoo / name)), None)
    return None if folder is None else next(path for n in (SINGLE, INDEX) if (path := folder / n).is_file())


def find_pretrained(name: str, hub_id: str | None = None, access: HubAccess | None = None) -> Path:
    """The folder that holds a model's weights: the first of `zoo_folders()` that has some, else the Hub's.

    Args:
        name: the model.
        hub_id: its Hugging Face Hub repository, downloaded where nothing nearer is found.
        access: how the Hub is asked.

    Raises:
        WeightsError: there are none; the message says where they were looked for and which models have some.
    """
    looked = []
    for zoo in zoo_folders():
        if _has_weights(zoo / name):
            return zoo / name
        looked.append(str(zoo / name))
    if hub_id is None:
        looked.append("the Hub (the model has no repository there)")
    else:
        try:
            return download(hub_id, access)
        except WeightsError as error:
            looked.append(f"the Hub ({error})")
    raise WeightsError(
        f"no weights for {name!r}",
        got=f"nothing in {'; '.join(looked)}",
        remedy=f"models with weights here: {_alternatives(name)}; or pass checkpoint=",
    )


def _alternatives(name: str) -> str:
    """The models with weights: first those that enlarge as much as `name`, of them first those of its family."""
    scale = re.search(r"_x\d+$", name)
    family = name.partition("_")[0]
    there = sorted(list_pretrained(), key=lambda other: (other.partition("_")[0] != family, other))
    same = [other for other in there if scale and other.endswith(scale[0])]
    return ", ".join([*(f"{other} (same scale)" for other in same), *(o for o in there if o not in same)]) or "none"


def write_zoo_folder(
    folder: Path,
    state_dict: Mapping[str, Tensor],
    *,
    model: str,
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    more: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `config.json` and safetensors, sharded where larger than `shard_bytes`; other files there are kept.

    Everything is written to temporary files first and then renamed, `config.json` last: an interruption leaves the old
    weights, or ones that its SHA-256 gives away.

    Args:
        folder: made where it does not exist.
        state_dict: the weights.
        model: the registered name.
        config: the model's configuration, JSON-able.
        dtype: floating-point tensors are stored in it, one of `STORED`; None keeps theirs.
        more: further entries of `config.json`, for other readers of it.
        shard_bytes: the largest file allowed.

    Raises:
        ConfigError: `config` is not JSON-able, or another `dtype`.
        WeightsError: a value is not finite in `dtype`, or one tensor is larger than a shard.
    """
    if dtype not in (None, *STORED):
        raise ConfigError("bad dtype", expected=", ".join(map(str, STORED)), got=repr(dtype))
    state = {name: _stored(name, tensor, dtype) for name, tensor in state_dict.items()}
    shards = _shards(state, shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    try:
        json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration of {model} is not JSON-able", got=str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    with _Renames(folder) as files:
        for name, shard in zip(names, shards, strict=True):
            files.add(name, _safetensors_writer(shard))
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": sum(t.nbytes for t in state.values())},
                "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
            }
            files.add(INDEX, _json_writer(index))
        content = {**(more or {}), "model": model, "config": dict(config), "files": files.digests()}
        files.add(CONFIG, _json_writer(content))
    kept = {*names, INDEX} if len(shards) > 1 else {SINGLE}
    for old in folder.iterdir():
        if is_weight_file(old.name) and old.name not in kept:
            old.unlink(missing_ok=True)


class _Renames:
    """Files written beside their final names, renamed together in order when the block ends well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, Path] = {}

    def __enter__(self) -> _Renames:
        return self

    def add(self, name: str, write: Callable[[Path], None]) -> None:
        self.written[name] = self.folder / f".{name}.{uuid.uuid4().hex}.tmp"
        write(self.written[name])

    def digests(self) -> dict[str, dict[str, Any]]:
        return {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in self.written.items()}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for name, path in self.written.items():
                    os.replace(path, self.folder / name)
        finally:
            for path in self.written.values():
                path.unlink(missing_ok=True)


def _has_weights(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and ((folder / SINGLE).is_file() or (folder / INDEX).is_file())


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
    if not tensor.isfinite().all():
        raise WeightsError(
            f"{name} is not finite in {tensor.dtype}", remedy="store it in a wider dtype, or train again"
        )
    # safetensors refuses tensors that share memory.
    return tensor.clone(memory_format=torch.contiguous_format)


def _shards(state: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in order, in as few files of at most `limit` bytes as first fit gives, headers counted."""
    shards: list[dict[str, Tensor]] = [{}]
    used = header = 256
    for name, tensor in state.items():
        size = tensor.nbytes + len(name.encode()) + 128
        if header + size > limit:
            raise WeightsError(
                f"{name} is larger than a shard",
                expected=f"at most {limit} bytes",
                got=header + size,
                remedy="store it in dtype=torch.float16, or allow larger shards",
            )
        if used + size > limit:
            shards.append({})
            used = header
        shards[-1][name] = tensor
        used += size
    return shards


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _safetensors_writer(shard: Mapping[str, Tensor]) -> Callable[[Path], None]:
    from safetensors.torch import save

    # safetensors' own save_file makes files that only their owner may read.
    def write(path: Path) -> None:
        path.write_bytes(save(dict(shard), metadata={"format": "pt"}))

    return write


def _json_writer(content: Mapping[str, Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    return write
