"""The models in the Hub's cache: which there are, which were used when, and what may go."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import (
    CacheError,
    CacheNotPruned,
    ChromaMLXError,
    CorruptCheckpoint,
    DownloadError,
    InputError,
    ModelNotFound,
)
from ..models.known import KNOWN_MODELS, REPO_ID, find_known
from .hashes import SHA1, SHA256, hash_like
from .hub import cache_errors, cache_folder, hub, quiet_client, repository_folder
from .listing import has_own_listing, read_listing
from .partial import SUFFIX, is_written
from .snapshot import find_cached

MARK: Final = "chroma-mlx.used"
BYTES_A_GB: Final = 1e9
# A model that was opened so lately may still be being loaded, by any process: `max_cache_gb` leaves it.
RECENT_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """A model in the cache. `size_bytes` is what its files take, `last_used` a time in seconds since 1970.

    `name` is its short name, else the repository's id; `whole` says whether every file is known to be there,
    and `ours` that this program fetched all that is, so that no other counts on it.
    """

    name: str
    repo_id: str
    folder: Path
    size_bytes: int
    last_used: float
    whole: bool
    ours: bool


@dataclass(frozen=True, slots=True)
class VerifiedFiles:
    """The files of a model that are what the Hub has, and those for which no hash is known here."""

    right: tuple[str, ...]
    unchecked: tuple[str, ...]


def list_cached(cache_path: Path | None = None, *, named: Collection[str] = ()) -> list[CachedModel]:
    """The cached models of the table, those that this program fetched, and those `named`, the last used first.

    Others in the same cache are other programs' and left alone, as is what may not be read. What an unfinished
    download has left counts. Raises CacheError where the cache itself cannot be read.
    """
    wanted = {row.repo_id: row.name for row in KNOWN_MODELS.values() if row.repo_id}
    for repo_id in map(repo_of, named):
        known = find_known(repo_id)
        wanted[repo_id] = known.name if known else repo_id
    with cache_errors(cache_path):
        for repo_id in _repositories(cache_folder(cache_path)):
            if repo_id not in wanted and _was_fetched_here(repository_folder(cache_path, repo_id)):
                wanted[repo_id] = repo_id
    models = []
    for repo_id, name in wanted.items():
        with contextlib.suppress(OSError):
            models.append(_describe(name, repo_id, repository_folder(cache_path, repo_id), cache_path))
    return sorted((model for model in models if model), key=lambda model: model.last_used, reverse=True)


def _repositories(cache: Path) -> list[str]:
    """The ids of the models in a cache, as its folders are named."""
    if not cache.exists():
        return []
    ids = (
        name.removeprefix("models--").replace("--", "/") for name in os.listdir(cache) if name.startswith("models--")
    )
    return sorted(repo_id for repo_id in ids if REPO_ID.fullmatch(repo_id))


def _was_fetched_here(repository: Path) -> bool:
    """Whether this program fetched a repository, or began to, by what it has noted or left."""
    return has_own_listing(repository) or any(repository.glob(f"blobs/*{SUFFIX}"))


def _describe(name: str, repo_id: str, folder: Path, cache_path: Path | None) -> CachedModel | None:
    """A repository of the cache; None for one that holds no bytes of a model."""
    unfinished = list(folder.glob("blobs/*.incomplete"))  # what downloads have left, ours and the client's
    snapshots = list(folder.glob("snapshots/*"))
    size = _bytes_of(folder)
    if not size:
        return None  # a folder that a name or a lock made
    own = [listing is not None and listing.fetched for listing in map(read_listing, snapshots)]
    return CachedModel(
        name=name,
        repo_id=repo_id,
        folder=folder,
        size_bytes=size,
        last_used=_last_used(folder),
        whole=find_cached(repo_id, cache_path, revision=_revision(repo_id)) is not None,
        ours=all(own)
        and bool(own or unfinished)
        and all(file.name.endswith(SUFFIX) and not is_written(file) for file in unfinished),
    )


def _bytes_of(folder: Path) -> int:
    """What the files of a repository take, each once, with those elsewhere that they link to."""
    return sum(_sizes(folder, follow=True).values())


def _bytes_in(folder: Path) -> int:
    """The same without those elsewhere."""
    return sum(_sizes(folder, follow=False).values())


def _sizes(folder: Path, *, follow: bool) -> dict[tuple[int, int], int]:
    """Sizes by what tells one file from another."""
    found = {}
    for file in (file for part in ("blobs", "snapshots") for file in (folder / part).rglob("*")):
        try:
            status = file.stat() if follow else file.lstat()
        except OSError:  # gone by now, a link to nowhere, or not to be read
            continue
        if stat.S_ISREG(status.st_mode):
            found[status.st_dev, status.st_ino] = status.st_size
    return found


def repo_of(model_name: str) -> str:
    """The repository's id of a short name or an id. Raises ModelNotFound for anything else."""
    known = find_known(model_name)
    if known is not None and known.repo_id is not None:
        return known.repo_id
    if known is not None:
        raise ModelNotFound(
            f"{model_name!r} is inside this package, so it is in no cache, and there is nothing to fetch, to hold "
            f"against the Hub's hashes or to remove. `chroma-mlx verify {model_name}` tests its vectors."
        )
    if not REPO_ID.fullmatch(model_name):
        raise ModelNotFound(
            f"{model_name!r} is neither a short name nor a repository's id (owner/name). `chroma-mlx models list` "
            "shows the short names."
        )
    return model_name


def remove_model(model_name: str, cache_path: Path | None = None) -> int:
    """Removes a model from the cache, with what unfinished downloads have left; returns the bytes that are free now.

    Raises ModelNotFound if it is not there, CacheError if something of it is there afterwards.
    """
    repo_id = repo_of(model_name)
    folder = repository_folder(cache_path, repo_id)
    with cache_errors(cache_path):
        if not folder.is_dir() or not (os.listdir(folder) and any(folder.glob("*/*"))):
            raise ModelNotFound(f"{model_name!r} ({repo_id}) is not in the cache, so there is nothing to remove.")
    size = _bytes_in(folder)
    try:
        return max(size, _delete(repo_id, folder, cache_path))
    except OSError as error:
        raise CacheError(
            f"{model_name!r} could not be removed: {_bytes_in(folder) / BYTES_A_GB:.2f} of {size / BYTES_A_GB:.2f} GB "
            f"are still in {folder}, since something there may not be changed by this user ({error}). Make it writable "
            "(`chmod -R u+w` as its owner), and remove the model again."
        ) from error


def _delete(repo_id: str, folder: Path, cache_path: Path | None) -> int:
    """Removes a repository; returns what the client says that frees, which counts what other folders hold of it."""
    freed = 0
    info = _cache_info(cache_path)
    for repo in info.repos if info is not None else ():
        if repo.repo_id == repo_id and repo.repo_type == "model":
            # By the client, which knows what else refers to a file. What it cannot delete, it leaves with a warning.
            strategy = info.delete_revisions(*(revision.commit_hash for revision in repo.revisions))
            freed = int(strategy.expected_freed_size)
            with quiet_client():
                strategy.execute()
    if folder.is_dir():
        shutil.rmtree(folder)
    return freed


def plan_pruning(
    models: Collection[CachedModel], max_gb: float, keep: Collection[str | Path] = ()
) -> list[CachedModel]:
    """Which models go so that the rest takes at most `max_gb` (10**9 bytes), the least recently used first.

    Those in `keep` (a name, a repository's id, or a folder of the cache) stay, even if that is more.
    Raises InputError for what is no size.
    """
    if isinstance(max_gb, bool) or not isinstance(max_gb, int | float) or not max_gb >= 0:  # nan is not
        raise InputError(f"The models may take {max_gb!r} GB, which is no size. Pass 0 or more, in 10**9 bytes.")
    size = sum(model.size_bytes for model in models)
    going = []
    for model in sorted(models, key=lambda model: model.last_used):
        if size <= max_gb * BYTES_A_GB:
            break
        if not any(_is_of(model, each) for each in keep):
            going.append(model)
            size -= model.size_bytes
    return going


def prunable(cache_path: Path | None = None, *, named: Collection[str] = ()) -> list[CachedModel]:
    """The cached models that may be pruned: those of the table that this program fetched, and those `named`."""
    chosen = set(map(repo_of, named))
    return [
        model
        for model in list_cached(cache_path, named=named)
        if model.repo_id in chosen or (model.ours and find_known(model.repo_id) is not None)
    ]


def prune_cache(
    cache_path: Path | None, max_gb: float, *, named: Collection[str] = (), keep: Collection[str | Path] = ()
) -> list[CachedModel]:
    """Removes what `plan_pruning` says of those that are `prunable`, but for `keep`; returns what is gone.

    One that cannot be removed does not keep the others; then CacheError is raised.
    """
    gone, failed = [], []
    for model in plan_pruning(prunable(cache_path, named=named), max_gb, keep):
        try:
            with contextlib.suppress(ModelNotFound):  # another process was quicker
                remove_model(model.repo_id, cache_path)
        except CacheError as error:
            failed.append(error)
        else:
            gone.append(model)
    if failed:
        raise failed[0]
    return gone


def keep_within(
    cache_path: Path | None, max_gb: float, *, keep: Collection[Path], clock: Callable[[], float] = time.time
) -> None:
    """Prunes after a download, as `max_cache_gb` asks, but for `keep` and what was opened in the last RECENT_S.

    What could not be removed is a warning: the model that was asked for is there.
    """
    try:
        since = clock() - RECENT_S
        recent = [model.folder for model in prunable(cache_path) if (_marked(model.folder) or 0.0) > since]
        prune_cache(cache_path, max_gb, keep=[*keep, *recent])
    except (ChromaMLXError, OSError) as error:
        warnings.warn(f"The cache was not pruned to max_cache_gb: {error}", CacheNotPruned, stacklevel=2)


def verify_files(model_name: str, cache_path: Path | None = None) -> VerifiedFiles:
    """The files of a cached model, each held against the hash that the Hub has for it.

    Raises DownloadError when the model is not whole in the cache, CorruptCheckpoint naming a file that differs.
    """
    repo_id = repo_of(model_name)
    with cache_errors(cache_path):
        return _verify(model_name, repo_id, cache_path)


def _verify(model_name: str, repo_id: str, cache_path: Path | None) -> VerifiedFiles:
    folder = find_cached(repo_id, cache_path, revision=_revision(repo_id))
    if folder is None:
        raise DownloadError(
            f"{model_name!r} is not known to be whole in the cache. Fetch what is missing: `chroma-mlx models download "
            f"{model_name}`."
        )
    listing = read_listing(folder)
    stated = {file.path: file.blob for file in listing.files} if listing else {}
    right, unchecked = [], []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        expected = stated.get(name) or _first_link(file)
        if not SHA256.fullmatch(expected) and not SHA1.fullmatch(expected):
            unchecked.append(name)
            continue
        if hash_like(file, expected) != expected:
            raise CorruptCheckpoint(
                f"{name} of {model_name} is not what the Hub has: its hash differs. Remove the model (`chroma-mlx "
                f"models remove {model_name}`) and download it again."
            )
        right.append(name)
    return VerifiedFiles(tuple(right), tuple(unchecked))


def _first_link(file: Path) -> str:
    """The name of the blob a file links to, by which the cache has the Hub's hash of it.

    Only the first link: the blob can be one itself, into a store that has names of another kind.
    """
    try:
        return Path(os.readlink(file)).name
    except OSError:
        return ""


def mark_used(folder: Path) -> None:
    """Notes that a model of the cache is in use now, beside its files.

    (The access times of the files do not tell: reading them to see whether they are whole changes them, and
    many systems keep none.) A folder that is no cache's, or cannot be written to, is left as it is.
    """
    if folder.parent.name == "snapshots":
        with contextlib.suppress(OSError):
            (folder.parent.parent / MARK).touch()


def _last_used(repository: Path) -> float:
    """When a model was used, or, where that was never noted, when the last of its bytes came."""
    marked = _marked(repository)
    if marked is not None:
        return marked
    return max((file.stat().st_mtime for file in repository.glob("blobs/*") if file.exists()), default=0.0)


def _marked(repository: Path) -> float | None:
    try:
        return (repository / MARK).stat().st_mtime
    except OSError:
        return None


def _is_of(model: CachedModel, named: str | Path) -> bool:
    """Whether a name, an id or a folder is this model's."""
    if isinstance(named, Path):
        return named.resolve().is_relative_to(model.folder.resolve())
    return named in (model.name, model.repo_id)


def _revision(repo_id: str) -> str | None:
    known = find_known(repo_id)
    return known.revision if known else None


def _cache_info(cache_path: Path | None) -> Any:
    """What the client knows of the cache; None where there is none, or a folder of another program is unreadable."""
    client = hub()
    try:
        return client.scan_cache_dir(cache_path)
    except (client.errors.CacheNotFound, OSError):
        return None
