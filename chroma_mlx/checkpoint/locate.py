"""Finds the folder of a model: inside this package, on this disk, in the Hub's cache, or by a download."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Final

from ..errors import CheckpointError, DownloadError, ModelNotFound, UnsupportedModel
from ..models.known import KNOWN_MODELS, REPO_ID
from .download import download
from .hub import PATTERNS, by_hand, hub, known_names
from .open import open_checkpoint

BUILTIN_FOLDER: Final = Path(__file__).parent.parent / "builtin" / "checkpoint"


def locate(
    model_name: str,
    *,
    cache_path: Path | None,
    auto_download: bool,
    show_progress: bool | None,
    why_not: str = "auto_download is off (turned on, it would be fetched)",
) -> Path:
    """The folder of `model_name`: a short name of the table, a local folder, or a Hub repository id.

    Raises ModelNotFound when it is none of these, DownloadError when it is not cached and cannot be
    downloaded, or may not: `why_not` says why without `auto_download`.
    """
    known = KNOWN_MODELS.get(model_name)
    if known is not None and known.repo_id is None:
        return BUILTIN_FOLDER
    repo_id = known.repo_id if known and known.repo_id else model_name
    if known is None:
        folder = local_folder(model_name)
        if folder is not None:
            return folder
        looks_local = model_name.startswith((".", "~", os.sep)) or "\\" in model_name
        if looks_local or not REPO_ID.fullmatch(model_name):
            raise ModelNotFound(_not_found(model_name))
    cached = find_cached(repo_id, cache_path, revision=known.revision if known else None)
    if cached is not None:
        return cached
    if not auto_download:
        raise DownloadError(
            f"The model {model_name!r} ({repo_id}) is not whole in the cache, and {why_not}. {by_hand(repo_id)}"
        )
    return download(
        repo_id,
        revision=known.revision if known else None,
        cache_path=cache_path,
        show_progress=show_progress,
    )


def local_folder(model_name: str) -> Path | None:
    """The absolute path of the folder that `model_name` is, or None: a short name stands before a folder."""
    if model_name in KNOWN_MODELS:
        return None
    # expanduser() raises for "~" and a user that does not exist.
    path = Path(os.path.expanduser(model_name))
    try:
        return path.absolute() if path.is_dir() else None
    except (OSError, ValueError):  # a name too long, or of characters that no file has
        return None


def find_cached(repo_id: str, cache_path: Path | None, *, revision: str | None = None) -> Path | None:
    """The folder of a repository that is whole in the Hub's cache, or None. Asks no network."""
    client = hub()
    try:
        folder = Path(
            client.snapshot_download(
                repo_id, revision=revision, cache_dir=cache_path, allow_patterns=list(PATTERNS), local_files_only=True
            )
        )
    except client.errors.LocalEntryNotFoundError:
        return None
    except client.errors.HFValidationError as error:
        raise ModelNotFound(_not_found(repo_id)) from error
    try:
        open_checkpoint(folder)
    except UnsupportedModel:
        return folder  # it is whole; loading says what is not supported
    except CheckpointError:
        return None  # an interrupted download, which a new one resumes
    return folder


def _not_found(model_name: str) -> str:
    close = difflib.get_close_matches(model_name, KNOWN_MODELS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"There is no model {model_name!r}: it is no short name, no folder on this disk, and no Hub repository id "
        f"(owner/name).{hint} {known_names()}"
    )
