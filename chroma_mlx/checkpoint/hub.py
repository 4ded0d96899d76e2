"""The Hub's client: imported late, its errors translated once, its bars as wanted."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ..errors import CacheError, ChromaMLXError, DownloadError, MissingPackage, ModelNotFound
from ..models.known import KNOWN_MODELS, find_known, is_own

# Answers of a server that may be others in a moment.
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})

# Answers to a token that is wrong, or lacks the right.
DENIED: Final = frozenset({401, 403})


def hub() -> Any:
    """The module huggingface_hub, imported here since that takes half a second. Raises MissingPackage."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingPackage("huggingface_hub", "huggingface-hub") from error
    return huggingface_hub


def is_repo_id(name: str) -> bool:
    """Whether the client takes a text for a repository's id."""
    client, utils = hub(), import_module("huggingface_hub.utils")
    try:
        utils.validate_repo_id(name)
    except client.errors.HFValidationError:
        return False
    return True


def repository_folder(cache_path: Path | None, repo_id: str) -> Path:
    """Where the Hub's cache keeps a model's repository, whether it is there or not; None is the cache in force."""
    return cache_folder(cache_path) / "--".join(("models", *repo_id.split("/")))


def cache_folder(cache_path: Path | None) -> Path:
    """`cache_path`, or the cache that HF_HUB_CACHE and HF_HOME name. Raises CacheError where that is a file."""
    if cache_path is None:
        hub()
        from huggingface_hub.constants import HF_HUB_CACHE

        cache_path = Path(HF_HUB_CACHE)
    folder = cache_path.expanduser()
    if os.path.exists(folder) and not os.path.isdir(folder):  # pathlib's raise for what may not be looked at
        raise CacheError(
            f"The models' cache {folder} is a file, so no model can be kept there. Set cache_dir, CHROMA_MLX_CACHE_DIR "
            "or HF_HUB_CACHE to a folder."
        )
    return folder


@contextmanager
def cache_errors(cache_path: Path | None) -> Iterator[None]:
    """Translates the system's errors at the files of the cache."""
    try:
        yield
    except ChromaMLXError:
        raise
    except OSError as error:
        raise CacheError(
            f"The models' cache {cache_folder(cache_path)} cannot be used: {error}. Either a file in it may not be "
            "read or written by this user, or its disk fails. Change the permissions of what is named, or set "
            "cache_dir or CHROMA_MLX_CACHE_DIR to another folder."
        ) from error


@contextmanager
def quiet_client() -> Iterator[None]:
    """Keeps the client's own warnings off the terminal: what matters of them is in the errors raised here.

    Who has set the client to say more than warnings (HF_HUB_VERBOSITY) goes on to see everything.
    """
    logger = logging.getLogger("huggingface_hub")
    handlers = list(logger.handlers) if logger.getEffectiveLevel() >= logging.WARNING else []

    def is_grave(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    for handler in handlers:
        handler.addFilter(is_grave)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_grave)


class TransientError(DownloadError):
    """A download failed for a reason that may pass. `retry_after_s` is what the server asked for, if it did."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Translates what the Hub's client raises, once, by type."""
    errors = hub().errors
    # Of the package that the client is built on, by its version: httpx, which has a tree of its own, or requests.
    network_error = getattr(errors, "HTTPError", OSError)
    try:
        with quiet_client():
            yield
    except ChromaMLXError:
        raise
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo_id} is gated: accept its licence on its page at the Hub, then log in with `hf auth login` or set "
            "HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"The Hub has no repository {repo_id!r}, or it is private. {known_names()} For a private one log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"The repository {repo_id!r} has not the revision that was asked for: {error}") from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(
            f"The model {repo_id} is not cached, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set (offline mode is "
            f"enabled), so it is not downloaded. Unset it where there is a connection. {by_hand(repo_id)}"
        ) from error
    except (OSError, network_error, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        status = getattr(getattr(error, "response", None), "status_code", None)
        log_in = "Log in with `hf auth login` or set HF_TOKEN. " if status in DENIED else ""
        message = (
            f"The model {repo_id} is not cached and could not be downloaded ({type(error).__name__}: {reason}). "
            f"{log_in}{by_hand(repo_id)}"
        )
        if _may_pass(error):
            response = getattr(error, "response", None)
            asked = None if response is None else read_retry_after(response.headers.get("Retry-After"))
            raise TransientError(message, retry_after_s=asked) from error
        raise DownloadError(message) from error


def _may_pass(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in TRANSIENT
    errors = hub().errors
    if isinstance(error, errors.LocalEntryNotFoundError):  # in 0.x a ValueError, too
        return error.__cause__ is not None and _may_pass(error.__cause__)
    if isinstance(error, errors.OfflineModeIsEnabled | errors.FileMetadataError | ValueError):
        return False
    # A full disk or a folder without permission stays so.
    return getattr(error, "errno", None) is None or isinstance(error, ConnectionError | TimeoutError)


def read_retry_after(header: str | None, *, now: float | None = None) -> float | None:
    """The seconds that a Retry-After asks to wait, which has a number of them or a date; None for anything else."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = max(0.0, date.timestamp() - (time.time() if now is None else now))
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def by_hand(repo_id: str) -> str:
    """How to carry a model over from another machine, in words.

    It keeps its name, since a path finds no row of the table, and with that no prompts and no smaller widths.
    """
    known = find_known(repo_id)
    if known is not None and known.revision is not None and not is_own(known):
        # The other machine has not the row, and without it the command would fetch the main branch.
        command = f"hf download {repo_id} --revision {known.revision} --cache-dir models"
    else:
        name = known.name if known is not None and is_own(known) else repo_id
        command = f"CHROMA_MLX_CACHE_DIR=models chroma-mlx models download {name}"
    plain = (
        f"The table has nothing on this model, so a plain folder does as well: `hf download {repo_id} --local-dir "
        f"{repo_id.rpartition('/')[2]}`, and its path as model_name; collections then know the model by that path. "
    )
    return (
        f"On a machine with a connection run `{command}`, carry the folder `models` over, and set cache_dir or "
        f"CHROMA_MLX_CACHE_DIR to its path here; the model's name stays the same. {plain if known is None else ''}The "
        "model 'builtin' needs no download."
    )


def known_names() -> str:
    """The short names, in a sentence."""
    return f"The short names are {', '.join(KNOWN_MODELS)}."
