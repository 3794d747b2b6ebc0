"""What a model's name means: a registered model, a folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparse_attn.backbones import ModelEntry, models
from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.weights import HubAccess, download, find_pretrained, read_config
from sparse_attn.weights.files import CONFIG

HUB, LOCAL = "hf-hub:", "local-dir:"


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Args:
        entry: the registered model.
        folder: holds its weights, in Hub form; None for random weights.
        trained: the configuration these were trained with; empty without a folder.
        edits: what was done to the model after it was built, see `surgery.model_edits`.
        file: the `config.json` that says all this, or None.
        remedy: what to do where the weights are damaged; None for what `read_weights` says.
    """

    entry: ModelEntry
    folder: Path | None
    trained: Mapping[str, Any]
    edits: Sequence[Mapping[str, Any]] = ()
    file: Path | None = None
    remedy: str | None = None


def find_source(name: str, access: HubAccess, *, pretrained: bool) -> Source:
    """Resolves a name given to `create_model`.

    Args:
        name: a registered name, `local-dir:<path>`, or `hf-hub:<organisation>/<name>`, with `@<revision>` or without.
        access: how the Hub is asked.
        pretrained: find the weights, too.

    Raises:
        UnknownNameError: no such model.
        ConfigError: a revision of something that has none, or two of them.
        WeightsError: nothing to be had there.
    """
    if name.startswith(HUB):
        repo_id, at, revision = name.removeprefix(HUB).partition("@")
        if at and (not revision or access.revision not in (None, revision)):
            raise ConfigError(f"bad revision in {name!r}", got=repr(access.revision), remedy="give it once")
        access = replace(access, revision=revision or access.revision)
        folder = download(repo_id, access, weights=pretrained)
        # The cache keeps folder and file names by commit: .../models--org--name/snapshots/<commit>.
        remedy = f"delete {folder.parent.parent} and get it again; if it is refused again, tell the owner of {repo_id}"
        return _from_folder(name, folder, remedy, pretrained=pretrained)
    if access.revision is not None:
        raise ConfigError(
            "a revision is of a repository of the Hub", got=f"{access.revision!r} of {name!r}", remedy="drop revision="
        )
    if name.startswith(LOCAL):
        return _from_folder(name, Path(name.removeprefix(LOCAL)).expanduser(), None, pretrained=pretrained)
    entry = models.get(name)
    if not pretrained:
        return Source(entry, None, {})
    folder = find_pretrained(name, entry.hub_id, access)
    recorded = _recorded(folder)
    if recorded["model"] != name:
        raise WeightsError(
            f"{folder} does not hold {name}", expected=f"config.json with model {name!r}", got=recorded["model"]
        )
    return Source(entry, folder, recorded["config"], recorded["edits"], folder / CONFIG)


def _from_folder(name: str, folder: Path, remedy: str | None, *, pretrained: bool) -> Source:
    recorded = _recorded(folder)
    if recorded["model"] not in models:
        raise UnknownNameError(
            f"{name} holds a model that is not registered here",
            got=repr(recorded["model"]),
            remedy="register it first, with register_model, or update this package",
        )
    entry, weights = models.get(recorded["model"]), folder if pretrained else None
    return Source(entry, weights, recorded["config"], recorded["edits"], folder / CONFIG, remedy)


def _recorded(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder, checked to be this package's."""
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {folder}", expected="a model folder", remedy="check the path")
    recorded = read_config(folder)
    if not isinstance(recorded.get("model"), str) or not isinstance(recorded.get("config"), dict):
        raise WeightsError(
            f"{folder} holds no model of this package",
            expected="a config.json with model and config, as save_pretrained writes it",
            got="none" if not recorded else f"one with {', '.join(recorded)}",
            remedy="check the path",
        )
    edits = recorded.setdefault("edits", [])
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise WeightsError(f"{folder / CONFIG} has bad edits", expected="a list of edits", remedy="get it again")
    return recorded
