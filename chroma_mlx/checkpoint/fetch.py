"""Fetches the files of a repository, each from where an earlier run stopped and held against its hash.

They come over HTTP, not by the Hub's other way (Xet): that one cannot be taken up by another process where
it stopped, and its content has no hash before it is put together. Nor does the client hold any file
against one, and it tries a broken connection again by itself: tries times tries, and a line of log for each.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Final

from ..errors import CorruptCheckpoint, DownloadError
from .hashes import hash_like
from .hub import hub, hub_errors
from .listing import ListedFile
from .partial import claimed

AT_ONCE: Final = 4
# How often who waits for another process's lock looks whether it is to stop.
LOCK_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """Where files come from and go to; `options` are passed to the client where it takes them."""

    repo_id: str
    commit: str
    repository: Path
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Client:
    """What is used of the client beyond its documented functions."""

    http_get: Callable[..., None]
    lock: Callable[..., Any]
    headers: Callable[..., dict[str, str]]


def fetch_files(source: Source, files: Sequence[ListedFile]) -> None:
    """Brings files among the blobs of the cache, several at once; the client then links them.

    A blob that is there in its size is left as it is. Where the client has changed so that this cannot be
    done, nothing is: it fetches them itself, from the start. Raises what hub_errors does, CorruptCheckpoint.
    """
    # (The client fetches those of which the Hub states no hash or no size, too.)
    absent = [file for file in files if file.blob and file.size and not is_in_cache(source, file)]
    client = _find_client()
    if client is None or not absent:
        return None
    stop = threading.Event()
    if len(absent) == 1:
        return _fetch(client, source, absent[0], stop)
    with ThreadPoolExecutor(min(AT_ONCE, len(absent)), thread_name_prefix="chroma-mlx-download") as pool:
        try:
            runs = [pool.submit(_fetch, client, source, file, stop) for file in absent]
            for run in wait(runs, return_when=FIRST_EXCEPTION).done:
                run.result()
        finally:
            # One has failed, or the user has had enough: what the others have is kept for the next time.
            stop.set()
            pool.shutdown(cancel_futures=True)
    return None


def is_in_cache(source: Source, file: ListedFile) -> bool:
    """Whether the cache has the content of a file, as far as its size tells."""
    return _content(source, file) is not None


def hold_against_hash(source: Source, file: ListedFile) -> None:
    """Raises CorruptCheckpoint, and removes a cached content, if it is not the Hub's."""
    found = drop_differing(source, file)
    if found is not None:
        raise _damaged(source, file, found)


def drop_differing(source: Source, file: ListedFile) -> str | None:
    """Removes a cached content that is not the Hub's, and returns its hash; None where it is, or nobody can tell."""
    content = _content(source, file)
    if content is None or file.blob is None:
        return None
    found = hash_like(content, file.blob)
    if found == file.blob:
        return None
    content.unlink()
    return found


def drop_damaged(source: Source, file: ListedFile) -> None:
    """Removes what the cache has under a file's name in another size than the file's.

    Of a small file, also what has its size and not its hash: a large one would take long to read.
    """
    if not is_in_cache(source, file):
        for path in _places(source, file):
            path.unlink(missing_ok=True)
    elif file.sha256 is None:
        drop_differing(source, file)


def _content(source: Source, file: ListedFile) -> Path | None:
    """The blob of a file, or the file itself: on a disk without links the client keeps no blobs."""
    return next((path for path in _places(source, file) if path.is_file() and path.stat().st_size == file.size), None)


def _places(source: Source, file: ListedFile) -> list[Path]:
    itself = source.repository / "snapshots" / source.commit / file.path
    return [source.repository / "blobs" / file.blob, itself] if file.blob else [itself]


def _find_client() -> _Client | None:
    hub()
    files, utils = (import_module(f"huggingface_hub.{name}") for name in ("file_download", "utils"))
    try:
        client = _Client(files.http_get, utils.WeakFileLock, utils.build_hf_headers)
    except AttributeError:
        return None
    taken = signature(client.http_get).parameters
    return client if {"resume_size", "expected_size", "displayed_filename", "headers"} <= taken.keys() else None


def _fetch(client: _Client, source: Source, file: ListedFile, stop: threading.Event) -> None:
    """One file, under the lock by which the client's other users wait. It has its name when its hash is right."""
    blob = source.repository / "blobs" / str(file.blob)
    lock = source.repository.parent / ".locks" / source.repository.name / f"{blob.name}.lock"
    for each in (blob, lock):
        each.parent.mkdir(parents=True, exist_ok=True)
    with hub_errors(source.repo_id), ExitStack() as stack:
        while not _entered(stack, client.lock(lock, timeout=LOCK_POLL_S)):
            _check(stop)
        if is_in_cache(source, file):
            return
        with claimed(blob) as unfinished:
            resumed = _append(client, source, file, unfinished, stop)
            found = hash_like(unfinished, blob.name)
            if found != file.blob and resumed:
                # What an earlier run left may be what is damaged.
                unfinished.unlink()
                _append(client, source, file, unfinished, stop)
                found = hash_like(unfinished, blob.name)
            if found != file.blob:
                unfinished.unlink()
                raise _damaged(source, file, found)
            unfinished.replace(blob)


def _append(client: _Client, source: Source, file: ListedFile, unfinished: Path, stop: threading.Event) -> bool:
    """Fetches what an unfinished file lacks; returns whether it had a beginning."""
    taken = signature(client.http_get).parameters
    with AppendingFile(unfinished, stop) as stream:
        if stream.tell() > file.size:
            stream.seek(0)
            stream.truncate()
        start = stream.tell()
        client.http_get(
            hub().hf_hub_url(source.repo_id, file.path, revision=source.commit),
            stream,
            resume_size=start,
            expected_size=file.size,
            displayed_filename=file.path,
            headers=client.headers(library_name="chroma-mlx"),
            # Tried again is what `download` tries again. Not every client has these arguments.
            **{name: value for name, value in {"_nb_retries": 0, **source.options}.items() if name in taken},
        )
    return start > 0


class AppendingFile(io.BufferedWriter):
    """A file to append to, which ends a download when it is told to."""

    def __init__(self, file: Path, stop: threading.Event) -> None:
        super().__init__(io.FileIO(file, "ab"))
        self._stop = stop

    def write(self, data: Any, /) -> int:
        _check(self._stop)
        return super().write(data)


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise DownloadError("The download was stopped, since another file of the model failed. Download it again.")


def _entered(stack: ExitStack, lock: Any) -> bool:
    try:
        stack.enter_context(lock)
    except TimeoutError:
        return False
    return True


def _damaged(source: Source, file: ListedFile, found: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{file.path} of {source.repo_id} has the {'SHA-256' if file.sha256 else 'SHA-1'} {found[:12]}…, but the Hub's "
        f"is {str(file.blob)[:12]}…, so it was damaged and was removed. Download the model again."
    )
