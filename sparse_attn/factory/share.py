"""Models out into the world: to a folder, and to the Hugging Face Hub."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparse_attn.backbones import models
from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.factory.building import check_dtype
from sparse_attn.factory.card import model_card
from sparse_attn.factory.form import shared_form
from sparse_attn.factory.origin import Origin, origin_of, unwrapped
from sparse_attn.factory.source import HUB, LOCAL
from sparse_attn.weights import upload, write_zoo_folder

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

CARD = "README.md"


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    model_name: str | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    card: str | None = None,
    license_id: str = "unknown",
) -> Path:
    """Writes a model to a folder that `create_model("local-dir:<folder>", pretrained=True)` builds it from again.

    Settings changed with `configure_attention` are part of it, and what `insert_attention` and `swap_attention` did.
    The `backend` is not, for it is a matter of the machine. Weights are safetensors, in files of 16 MiB at most.

    Args:
        model: what `create_model` built, trained or not, compiled or wrapped for several devices or not.
        folder: made where it does not exist; files of other names are kept.
        model_name: the registered name, for models that were built otherwise.
        config: with `model_name`, what differs from the registered configuration.
        dtype: of the stored weights: float64, float32, float16 or bfloat16; None keeps theirs.
        card: the text of `README.md`; None writes one where there is none.
        license_id: for that one, the Hub's identifier of the licence of the weights, such as `apache-2.0`.

    Returns:
        The folder.

    Raises:
        ConfigError: it is not known what the model was built from, or it has been rebuilt since; or a bad `dtype`.
        WeightsError: a weight is not finite in `dtype`, or on the meta device; or the folder cannot be written.
    """
    folder = Path(folder)
    if (folder / CARD).is_dir():
        raise WeightsError(f"cannot write {folder / CARD}", got="a folder of this name", remedy="choose another folder")
    try:
        text = _write(model, folder, model_name, config, dtype, f"{LOCAL}{folder.resolve().name}", license_id)
        if card is not None or not (folder / CARD).exists():
            _replace(folder / CARD, text if card is None else card)
    except OSError as error:
        raise WeightsError(
            f"cannot write {error.filename or folder}", got=error.strerror, remedy="choose a folder that can be written"
        ) from error
    return folder


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    model_name: str | None = None,
    config: Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    dtype: torch.dtype | None = None,
    card: str | None = None,
    license_id: str = "unknown",
    create_pr: bool = False,
) -> CommitInfo:
    """Shares a model on the Hugging Face Hub: `create_model("hf-hub:<repo_id>", pretrained=True)` builds it again.

    Args:
        model: what `create_model` built, trained or not, compiled or wrapped for several devices or not.
        repo_id: `organisation/name`; made where it does not exist.
        model_name: the registered name, for models that were built otherwise.
        config: with `model_name`, what differs from the registered configuration.
        private: whether a new repository is.
        token: of a user who may write; None for the one logged in with.
        revision: the branch, made where it does not exist; None for the main one.
        commit_message: title of the commit, or of the pull request.
        dtype: of the stored weights: float64, float32, float16 or bfloat16; None keeps theirs.
        card: the text of `README.md`; None writes one where the repository has none.
        license_id: for that one, the Hub's identifier of the licence of the weights, such as `apache-2.0`.
        create_pr: propose the commit as a pull request instead of making it.

    Returns:
        What `huggingface_hub` says of the commit: its `commit_url`, `oid`, `pr_url`.

    Raises:
        ConfigError: it is not known what the model was built from, or it has been rebuilt since; or a bad `dtype`.
        WeightsError: a weight is not finite in `dtype`, or on the meta device; the Hub refuses, or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        address = f"{HUB}{repo_id}" + (f"@{revision}" if revision and not create_pr else "")
        text = _write(model, folder, model_name, config, dtype, address, license_id)
        (folder / CARD).write_text(text if card is None else card, encoding="utf-8")
        return upload(
            folder,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message or f"Upload {repo_id.rpartition('/')[2]}",
            create_pr=create_pr,
            keep_card=card is None,
        )


def _replace(path: Path, text: str) -> None:
    """Writes a file whole, or not at all; where there is a link, the file it points to stays what it was."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write(
    model: nn.Module,
    folder: Path,
    model_name: str | None,
    config: Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    address: str,
    license_id: str,
) -> str:
    """Weights and `config.json` into a folder; returns the text of a card."""
    check_dtype(dtype)
    origin = _stated(model, model_name, config)
    model = unwrapped(model)
    full, edits = shared_form(model, origin)
    state = model.state_dict()
    if bare := next((name for name, tensor in state.items() if tensor.is_meta), None):
        raise WeightsError("the model is on the meta device", got=bare, remedy="build it on a real device")
    # With these, timm.create_model("hf-hub:...") finds the model too, once timm_models is imported.
    more = {"architecture": origin.model, "pretrained_cfg": {}, **({"edits": edits} if edits else {})}
    write_zoo_folder(folder, state, model=origin.model, config=full, dtype=dtype, more=more)
    title = address.partition(":")[2].partition("@")[0].rpartition("/")[2]
    written = {"model": origin.model, "config": full, **({"edits": edits} if edits else {})}
    return model_card(model, written, address=address, title=title, license_id=license_id)


def _stated(model: nn.Module, model_name: str | None, config: Mapping[str, Any] | None) -> Origin:
    """Where the model comes from: as the caller says, else as `create_model` noted."""
    if model_name is not None:
        return Origin(model_name, models.get(model_name).full_config(**(config or {})))
    if config is not None:
        raise ConfigError("config without model_name", remedy="pass model_name= too: the registered name")
    origin = origin_of(model)
    if origin is None:
        raise ConfigError(
            "it is not known what this model was built from",
            expected="a model that create_model built",
            got=type(model).__name__,
            remedy="pass model_name= and config=: the registered name, and what differs from its configuration",
        )
    return origin
