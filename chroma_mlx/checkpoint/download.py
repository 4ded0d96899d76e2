"""Fetches a model into the Hub's cache: room on the disk first, then the large files, each held against its hash."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from inspect import signature
from pathlib import Path
from typing import Any, Final

from ..errors import CheckpointError, CorruptCheckpoint, DownloadError, UnsupportedModel
from ..progress import shows_progress
from .hub import PATTERNS, TransientError, by_hand, hub, hub_errors
from .open import open_checkpoint

ATTEMPTS: Final = 5
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 60.0
# Left free beside the files: a cache that fills a disk stops more than this program.
SPARE_BYTES: Final = 256 * 2**20
CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository that a model needs; `sha256` where the Hub keeps it as a large file.

    `blob` is its name in the cache, None where the Hub does not say.
    """

    path: str
    size: int
    sha256: str | None
    blob: str | None


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
    begin at once download once: each file is locked as the client does it. Raises ModelNotFound, DownloadError
    (which names the manual way), CorruptCheckpoint for a file whose content is not the Hub's.
    """
    wait = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _download_once(repo_id, revision, cache_path, show_progress)
        except TransientError as error:
            asked = error.retry_after_s
            # Spread a little, or all that were refused together would come again together.
            pause = wait * (1.0 + 0.25 * random.random()) if asked is None else asked
            if attempt == ATTEMPTS or pause > LONGEST_WAIT_S:
                raise DownloadError(str(error)) from error.__cause__
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
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = (Path(HF_HUB_CACHE) if cache_path is None else cache_path).expanduser()
    repository = cache / client.file_download.repo_folder_name(repo_id=repo_id, repo_type="model")
    _check_room(repo_id, files, repository)
    bars = {"tqdm_class": _bar_class(shown=shows_progress(show_progress))}
    with hub_errors(repo_id):
        for file in files:
            if file.sha256:
                _fetch_large(client, repo_id, info.sha, file, repository, bars)
        folder = Path(
            client.snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_path,
                allow_patterns=list(PATTERNS),
                library_name="chroma-mlx",
                **bars,
            )
        )
    try:
        open_checkpoint(folder)
    except UnsupportedModel:
        pass  # it is whole; loading says what is not supported
    except CheckpointError as error:
        raise CorruptCheckpoint(
            f"The repository {repo_id} was downloaded whole, but is no checkpoint that works: {error}"
        ) from error
    return folder


def _fetch_large(
    client: Any, repo_id: str, commit: str, file: RemoteFile, repository: Path, options: dict[str, Any]
) -> None:
    """Brings a large file among the blobs of the cache, from where an earlier run stopped; the client then links it.

    The client by itself (2.4) begins a file anew: an unfinished one belongs to a call and is removed when that
    fails. Its lock is held, so that its other users wait. A file has its name when its hash is right.
    """
    assert file.sha256 is not None
    blob = repository / "blobs" / file.sha256
    unfinished = _unfinished(blob)
    lock = repository.parent / ".locks" / repository.name / f"{blob.name}.lock"
    for each in (blob, lock):
        each.parent.mkdir(parents=True, exist_ok=True)
    with client.utils.WeakFileLock(lock):
        if not blob.exists():
            get = client.file_download.http_get
            with unfinished.open("ab") as stream:
                if stream.tell() > file.size:
                    stream.seek(0)
                    stream.truncate()
                get(
                    client.hf_hub_url(repo_id, file.path, revision=commit),
                    stream,
                    resume_size=stream.tell(),
                    expected_size=file.size,
                    displayed_filename=file.path,
                    headers=client.utils.build_hf_headers(library_name="chroma-mlx"),
                    # Older clients have no such argument.
                    **{name: value for name, value in options.items() if name in signature(get).parameters},
                )
        whole = blob if blob.exists() else unfinished
        found = hash_file(whole)
        if found != file.sha256:
            whole.unlink()
            raise CorruptCheckpoint(
                f"{file.path} of {repo_id} has the SHA-256 {found[:12]}…, but the Hub's is {file.sha256[:12]}…, so it "
                "was damaged on its way and was removed. Download the model again."
            )
        whole.replace(blob)


def _unfinished(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.chroma-mlx.incomplete")


def _needed(info: Any) -> list[RemoteFile]:
    """The files of a repository that PATTERNS take; empty when no model is among them."""
    files = []
    for each in info.siblings or []:
        if any(fnmatch(each.rfilename, pattern) for pattern in PATTERNS):
            sha256 = getattr(each.lfs, "sha256", None) if each.lfs else None
            files.append(RemoteFile(each.rfilename, int(each.size or 0), sha256, sha256 or each.blob_id))
    has_weights = any(file.path.endswith(".safetensors") for file in files)
    return files if has_weights and any(Path(file.path).name == "config.json" for file in files) else []


def _check_room(repo_id: str, files: list[RemoteFile], repository: Path) -> None:
    """Raises DownloadError unless the disk of the cache holds what is still to come."""
    cache = repository.parent
    needed = sum(max(0, file.size - _bytes_there(repository, file.blob)) for file in files)
    existing = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + SPARE_BYTES > free:
        raise DownloadError(
            f"The model {repo_id} needs {needed / 1e9:.2f} GB more in {cache}, but only {free / 1e9:.2f} GB are free "
            "there. Make room (`chroma-mlx models prune --max-gb N`), or set cache_dir or CHROMA_MLX_CACHE_DIR to a "
            "larger disk."
        )


def _bytes_there(repository: Path, blob: str | None) -> int:
    """How much of a file is in the cache; what other versions of a repository have there does not count."""
    if blob is None:
        return 0
    whole = repository / "blobs" / blob
    return next((file.stat().st_size for file in (whole, _unfinished(whole)) if file.exists()), 0)


def hash_file(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _bar_class(*, shown: bool) -> Any:
    """The bars of the client, which by itself shows some of them on a terminal only."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]  # the class is generic for type checkers only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": not shown})

    return Bar
