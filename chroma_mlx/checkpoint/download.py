"""Fetches a model into the Hub's cache: room on the disk first, then the files, then their hashes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import CheckpointError, CorruptCheckpoint, DownloadError, UnsupportedModel
from ..progress import shows_progress
from .hub import PATTERNS, TransientError, by_hand, hub, hub_errors
from .open import open_checkpoint

ATTEMPTS: Final = 5
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
# Left free beside the files: a cache that fills a disk stops more than this program.
SPARE_BYTES: Final = 256 * 2**20
CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository that a model needs; `sha256` where the Hub keeps it as a large file."""

    path: str
    size: int
    sha256: str | None


def download(
    repo_id: str,
    *,
    revision: str | None,
    cache_path: Path | None,
    show_progress: bool | None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Downloads what a text model needs of a repository; returns its folder in the cache.

    What an interrupted run has left is taken up. Errors of the network and the server's "too many" are tried
    again up to ATTEMPTS times, with waits that double or are what the server asks for. Two processes that
    begin at once download once: the client locks each file. Raises ModelNotFound, DownloadError (which names
    the manual way), CorruptCheckpoint for a file whose content is not the Hub's.
    """
    wait = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _download_once(repo_id, revision, cache_path, show_progress)
        except TransientError as error:
            if attempt == ATTEMPTS:
                raise
            asked = error.retry_after_s
            # Spread a little, or all that were refused together would come again together.
            pause = wait * (1.0 + 0.25 * random.random()) if asked is None else asked
            if pause > LONGEST_WAIT_S:
                raise
            sleep(pause)
            wait *= 2.0
    raise AssertionError("the last attempt returns or raises")


def _download_once(repo_id: str, revision: str | None, cache_path: Path | None, show_progress: bool | None) -> Path:
    client = hub()
    with hub_errors(repo_id):
        info = client.HfApi(library_name="chroma-mlx").model_info(repo_id, revision=revision, files_metadata=True)
    files = _needed(info)
    if not files:
        raise DownloadError(
            f"The repository {repo_id} has no *.safetensors with a config.json, so it holds no model that this engine "
            f"can run. Use a conversion in safetensors. {by_hand(repo_id)}"
        )
    cache = Path(client.constants.HF_HUB_CACHE) if cache_path is None else cache_path
    _check_room(repo_id, files, cache, client)
    quiet = {} if shows_progress(show_progress) else {"tqdm_class": _silent_tqdm()}
    with hub_errors(repo_id):
        folder = Path(
            client.snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_path,
                allow_patterns=list(PATTERNS),
                library_name="chroma-mlx",
                **quiet,
            )
        )
    check_hashes(folder, {file.path: file.sha256 for file in files if file.sha256})
    try:
        open_checkpoint(folder)
    except UnsupportedModel:
        pass  # it is whole; loading says what is not supported
    except CheckpointError as error:
        raise CorruptCheckpoint(
            f"The repository {repo_id} was downloaded whole, but is no checkpoint that works: {error}"
        ) from error
    return folder


def _needed(info: Any) -> list[RemoteFile]:
    """The files of a repository that PATTERNS take; empty when no model is among them."""
    from fnmatch import fnmatch

    files = [
        RemoteFile(each.rfilename, int(each.size or 0), getattr(each.lfs, "sha256", None) if each.lfs else None)
        for each in info.siblings or []
        if any(fnmatch(each.rfilename, pattern) for pattern in PATTERNS)
    ]
    has_weights = any(file.path.endswith(".safetensors") for file in files)
    return files if has_weights and any(file.path.endswith("config.json") for file in files) else []


def _check_room(repo_id: str, files: list[RemoteFile], cache: Path, client: Any) -> None:
    """Raises DownloadError unless the disk of the cache holds what is still to come."""
    folder = cache / client.file_download.repo_folder_name(repo_id=repo_id, repo_type="model")
    there = sum(file.stat().st_size for file in (folder / "blobs").glob("*") if file.is_file())
    needed = max(0, sum(file.size for file in files) - there)
    existing = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + SPARE_BYTES > free:
        raise DownloadError(
            f"The model {repo_id} needs {needed / 1e9:.2f} GB more in {cache}, but only {free / 1e9:.2f} GB are free "
            "there. Make room (`chroma-mlx models prune --max-gb N`), or set cache_dir or CHROMA_MLX_CACHE_DIR to a "
            "larger disk."
        )


def check_hashes(folder: Path, expected: dict[str, str]) -> None:
    """Holds files against their SHA-256; removes one that differs and raises CorruptCheckpoint.

    A file of the cache is checked once a download: it costs a second for every gigabyte or so.
    """
    for path, sha256 in expected.items():
        file = folder / path
        found = hash_file(file)
        if found != sha256:
            blob = Path(os.path.realpath(file))
            file.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
            raise CorruptCheckpoint(
                f"{path} of {folder} has the SHA-256 {found[:12]}…, but the Hub's is {sha256[:12]}…, so it was "
                "damaged on its way and was removed. Download the model again."
            )


def hash_file(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _silent_tqdm() -> Any:
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]  # the class is generic for type checkers only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent
