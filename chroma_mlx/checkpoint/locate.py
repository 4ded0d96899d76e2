"""Finds the folder of a model: inside this package, on this disk, in the Hub's cache, or by a download."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import DownloadError, ModelNotFound
from ..models.known import KNOWN_MODELS, REPO_ID
from .download import ask_hub, download
from .hub import by_hand, cache_errors, is_repo_id, known_names
from .snapshot import find_snapshot, warn_if_unchecked

BUILTIN_FOLDER: Final = Path(__file__).parent.parent / "builtin" / "checkpoint"


def locate(
    model_name: str,
    *,
    cache_path: Path | None,
    auto_download: bool,
    show_progress: bool | None,
    why_not: str = "auto_download is off (turned on, it would be fetched)",
    on_fetch: Callable[[Path], None] | None = None,
) -> Path:
    """The folder of `model_name`: a short name of the table, a local folder, or a Hub repository id.

    A cached model that is not known to be whole is completed, if that is allowed and the Hub answers; else it
    is taken, with the warning UncheckedModel when its own files do not show that they are all. `on_fetch` is
    called with the folder after a download of weights.

    Raises ModelNotFound when it is none of these, DownloadError when it is not cached and cannot be
    downloaded, or may not (`why_not` says why without `auto_download`), CacheError.
    """
    known = KNOWN_MODELS.get(model_name)
    if known is not None and known.repo_id is None:
        return BUILTIN_FOLDER
    repo_id, revision = (known.repo_id or model_name, known.revision) if known else (model_name, None)
    if known is None:
        folder = local_folder(model_name)
        if folder is not None:
            return folder
        _check_repo_id(model_name)
    with cache_errors(cache_path):
        cached = find_snapshot(repo_id, cache_path, revision=revision)
        if cached is not None and cached.whole:
            return cached.folder
        if not auto_download:
            if cached is None:
                raise DownloadError(
                    f"The model {model_name!r} ({repo_id}) is not whole in the cache, and {why_not}. {by_hand(repo_id)}"
                )
            warn_if_unchecked(model_name, cached, "it may not be downloaded now")
            return cached.folder
        if cached is not None:
            revision = cached.folder.name  # what is there is completed, not replaced by what is newer
            try:
                ask_hub(repo_id, revision)  # once: a machine without a connection need not wait for what it has
            except (DownloadError, ModelNotFound) as error:
                why = f"the Hub could not be asked ({type(error.__cause__ or error).__name__})"
                warn_if_unchecked(model_name, cached, why)
                return cached.folder
        return download(
            repo_id, revision=revision, cache_path=cache_path, show_progress=show_progress, on_fetch=on_fetch
        )


def local_folder(model_name: str) -> Path | None:
    """The absolute path of the folder that `model_name` is, or None: a short name stands before a folder."""
    if model_name in KNOWN_MODELS or not model_name.strip():  # an empty path would be the working folder
        return None
    # expanduser() raises for "~" and a user that does not exist.
    path = Path(os.path.expanduser(model_name))
    try:
        return path.absolute() if path.is_dir() else None
    except (OSError, ValueError):  # a name too long, or of characters that no file has
        return None


def _check_repo_id(name: str) -> None:
    """Raises ModelNotFound for what is no repository's id, before a folder or a server is asked for it."""
    looks_local = name.startswith((".", "~", os.sep)) or "\\" in name
    if looks_local or not REPO_ID.fullmatch(name) or not is_repo_id(name):
        raise ModelNotFound(_not_found(name))


def _not_found(model_name: str) -> str:
    close = difflib.get_close_matches(model_name, KNOWN_MODELS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"There is no model {model_name!r}: it is no short name, no folder on this disk, and no Hub repository id "
        f"(owner/name).{hint} {known_names()}"
    )
