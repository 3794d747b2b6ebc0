"""The Hugging Face Hub, through `huggingface_hub`: zoo folders fetched from it and put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sparse_attn.errors import WeightsError
from sparse_attn.weights.files import CONFIG, INDEX, SINGLE, is_weight_file, read_config

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

CARD = "README.md"
LIBRARY = "sparse-attn"
LOG_IN = "for a private repository pass token=, or log in with `hf auth login`"
# `fnmatch` patterns of what `is_weight_file` knows.
_WEIGHTS = [SINGLE, INDEX, f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors"]
T = TypeVar("T")


@dataclass(frozen=True)
class HubAccess:
    """How the Hub is asked; the defaults are those of `huggingface_hub` and its environment variables.

    Args:
        revision: a branch, tag or commit; None for the main branch.
        token: of a user; None for the one logged in with, False for none.
        cache_dir: where downloads are kept.
        local_files_only: take what the cache holds, and ask nobody.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def download(repo_id: str, access: HubAccess | None = None, *, weights: bool = True) -> Path:
    """The folder that holds a repository's `config.json` and the weight files it records, from the cache or the Hub.

    Weights are taken from the commit that `config.json` came from, even where the branch has moved since.

    Args:
        repo_id: `organisation/name`.
        access: how the Hub is asked.
        weights: fetch them too.

    Raises:
        WeightsError: there is no such repository, revision or file, no access or no connection, or it is not a model of
            this package.
    """
    access = access or HubAccess()
    folder = _fetch(repo_id, CONFIG, access).parent
    recorded = read_config(folder)
    files = recorded.get("files")
    if not isinstance(recorded.get("model"), str) or not isinstance(files, dict) or not files:
        raise WeightsError(
            f"{repo_id} on the Hub is not a model of this package",
            expected=f"a {CONFIG} with model, config and files, as push_to_hub writes it",
            got=", ".join(recorded) or "nothing",
            remedy="check the name; weights of other packages go through checkpoint=",
        )
    # Whoever wrote that file decides what is fetched: nothing but weights, in this folder.
    if others := [name for name in files if not is_weight_file(name)]:
        raise WeightsError(
            f"{repo_id} on the Hub records files that are not weights",
            expected=f"{SINGLE}, or its shards and {INDEX}",
            got=", ".join(map(repr, others[:5])),
        )
    if weights:
        for name in files:
            _fetch(repo_id, name, replace(access, revision=folder.name))
    return folder


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
    create_pr: bool,
    keep_card: bool,
) -> CommitInfo:
    """Commits a zoo folder to a repository, which is made where there is none; weights of an older form go.

    Args:
        folder: what `write_zoo_folder` wrote, and a card.
        repo_id: `organisation/name`.
        private: whether a new repository is.
        token: of a user who may write.
        revision: the branch, made where there is none; None for the main one.
        commit_message: its title.
        create_pr: propose the commit instead of making it.
        keep_card: leave a card that is there already.

    Raises:
        WeightsError: the Hub refuses, or cannot be reached.
    """

    def push() -> CommitInfo:
        from huggingface_hub import HfApi

        api = HfApi(token=token, library_name=LIBRARY)
        api.create_repo(repo_id, private=private, exist_ok=True)
        # References like refs/pr/1 are not branches: they exist, or are an error of the commit's.
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        has_card = keep_card and api.file_exists(repo_id, CARD, revision=revision)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            ignore_patterns=[CARD] if has_card else None,
            delete_patterns=_WEIGHTS,
        )

    return _asking(push, repo_id, HubAccess(revision=revision, token=token), "write to")


def _fetch(repo_id: str, name: str, access: HubAccess) -> Path:
    def get() -> Path:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(
            repo_id,
            name,
            revision=access.revision,
            token=access.token,
            cache_dir=access.cache_dir,
            local_files_only=access.local_files_only,
            library_name=LIBRARY,
        )
        return Path(path)

    return _asking(get, repo_id, access, f"get {name} of")


def _asking(ask: Callable[[], T], repo_id: str, access: HubAccess, what: str) -> T:
    """What `ask` returns; what goes wrong becomes a WeightsError that names the repository and what to do."""
    try:
        return ask()
    except Exception as error:
        problem, remedy = _diagnosis(error, access)
        raise WeightsError(f"cannot {what} {repo_id} on the Hub", got=problem, remedy=remedy) from error


def _diagnosis(error: Exception, access: HubAccess) -> tuple[str, str]:
    """What went wrong, and the remedy."""
    try:
        from huggingface_hub import constants, errors
    except ImportError:
        return str(error), "pip install -U huggingface_hub"
    # In this order: some are kinds of others.
    known: dict[type[Exception], tuple[str, str]] = {
        errors.HFValidationError: (_first_line(error), "a repository is organisation/name"),
        errors.LocalTokenNotFoundError: ("token=True, and nobody is logged in", LOG_IN),
        errors.GatedRepoError: ("it asks for consent", f"accept its terms on its page, then {LOG_IN}"),
        errors.RepositoryNotFoundError: ("no such repository, or a private one", f"check the name; {LOG_IN}"),
        errors.RevisionNotFoundError: (f"no revision {access.revision!r}", "see the branches and tags on its page"),
        errors.EntryNotFoundError: ("no such file in it", "check the name and the revision"),
    }
    # In older versions this one is an error of the server's without an answer.
    if isinstance(error, errors.LocalEntryNotFoundError):
        if access.local_files_only or constants.HF_HUB_OFFLINE:
            where = f"it is not in the cache{f' {access.cache_dir}' if access.cache_dir else ''}, and offline"
            return where, "get it once while online: without local_files_only and HF_HUB_OFFLINE"
    elif said := next((said for kind, said in known.items() if isinstance(error, kind)), None):
        return said
    elif isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        what = f"access denied ({error.response.status_code})"
        return what, "pass a token= that has the right to do this, or log in with `hf auth login`"
    if isinstance(error.__cause__, Exception):
        return _diagnosis(error.__cause__, access)
    return f"{type(error).__name__}: {_first_line(error)}", "check the connection, and HF_ENDPOINT where it is set"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
