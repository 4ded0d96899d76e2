"""Finds the folder of a model: inside this package, on this disk, in the Hub's cache, or by a download."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ..errors import CheckpointError, DownloadError, MissingPackage, ModelNotFound, UnsupportedModel
from ..models.known import KNOWN_MODELS
from ..progress import shows_progress
from .open import open_checkpoint

BUILTIN_FOLDER: Final = Path(__file__).parent.parent / "builtin" / "checkpoint"
REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a text model needs; not its ONNX, PyTorch or OpenVINO twins, which can be most of a repository.
PATTERNS: Final = ("*.json", "*.safetensors")


def locate(model_name: str, *, cache_path: Path | None, auto_download: bool, show_progress: bool | None) -> Path:
    """The folder of `model_name`: a short name of the table, a local folder, or a Hub repository id.

    Raises ModelNotFound when it is none of these, DownloadError when it is not cached and cannot be
    downloaded or may not.
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
    cached = find_cached(repo_id, cache_path)
    if cached is not None:
        return cached
    if not auto_download:
        raise DownloadError(
            f"The model {model_name!r} ({repo_id}) is not whole in the cache, and auto_download is off. "
            f"{_by_hand(repo_id)}"
        )
    return _download(repo_id, cache_path, show_progress)


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


def find_cached(repo_id: str, cache_path: Path | None) -> Path | None:
    """The folder of a repository that is whole in the Hub's cache, or None. Asks no network."""
    hub = _hub()
    try:
        folder = Path(
            hub.snapshot_download(repo_id, cache_dir=cache_path, allow_patterns=list(PATTERNS), local_files_only=True)
        )
    except hub.errors.LocalEntryNotFoundError:
        return None
    except hub.errors.HFValidationError as error:
        raise ModelNotFound(_not_found(repo_id)) from error
    try:
        open_checkpoint(folder)
    except UnsupportedModel:
        return folder  # it is whole; loading says what is not supported
    except CheckpointError:
        return None  # an interrupted download, which a new one resumes
    return folder


def _download(repo_id: str, cache_path: Path | None, show_progress: bool | None) -> Path:
    hub = _hub()
    quiet = {} if shows_progress(show_progress) else {"tqdm_class": _silent_tqdm()}
    with _hub_errors(repo_id):
        folder = hub.snapshot_download(
            repo_id, cache_dir=cache_path, allow_patterns=list(PATTERNS), library_name="chroma-mlx", **quiet
        )
    return Path(folder)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Translates what the Hub's client raises, once, by type."""
    errors = _hub().errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo_id} is gated: accept its licence on its page at the Hub, then log in with `hf auth login` or set "
            "HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"The Hub has no repository {repo_id!r}, or it is private. {_known()} For a private one log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except (OSError, errors.HfHubHTTPError, ValueError) as error:
        # Every network error of the client, and of what it is built on, is an OSError or comes as one.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DownloadError(
            f"The model {repo_id} is not cached and could not be downloaded ({type(error).__name__}: {reason}). "
            f"{_by_hand(repo_id)}"
        ) from error


def _hub() -> Any:
    """The Hub's client, imported here since that takes half a second."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingPackage("huggingface_hub", "huggingface-hub") from error
    return huggingface_hub


def _silent_tqdm() -> Any:
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]  # the class is generic for type checkers only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


def _by_hand(repo_id: str) -> str:
    return (
        f"On a machine with a connection run `hf download {repo_id} --local-dir {repo_id.rpartition('/')[2]}`, carry "
        "the folder over, and pass its path as model_name. The model 'builtin' needs no download."
    )


def _not_found(model_name: str) -> str:
    close = difflib.get_close_matches(model_name, KNOWN_MODELS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"There is no model {model_name!r}: it is no short name, no folder on this disk, and no Hub repository id "
        f"(owner/name).{hint} {_known()}"
    )


def _known() -> str:
    return f"The short names are {', '.join(KNOWN_MODELS)}."
