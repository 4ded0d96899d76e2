"""The models in the Hub's cache: which there are, which were used when, and what may go."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import CorruptCheckpoint, DownloadError, ModelNotFound
from ..models.known import KNOWN_MODELS, REPO_ID, find_known
from .download import CHUNK_BYTES, hash_file
from .hub import hub
from .locate import find_cached

MARK: Final = "chroma-mlx.used"
BYTES_A_GB: Final = 1e9
SHA256_DIGITS: Final = 64
SHA1_DIGITS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """A model in the cache. `size_bytes` is what its files take, `last_used` a time in seconds since 1970.

    `name` is its short name, else the repository's id; `whole` says whether every file is there.
    """

    name: str
    repo_id: str
    folder: Path
    size_bytes: int
    last_used: float
    whole: bool


def list_cached(cache_path: Path | None = None, *, named: Collection[str] = ()) -> list[CachedModel]:
    """The cached models of the table and of the repositories `named`, the last used first.

    Others in the same cache are other programs' and left alone.
    """
    wanted = {row.repo_id: row.name for row in KNOWN_MODELS.values() if row.repo_id}
    wanted |= {repo_id: (find_known(repo_id) or _Named(repo_id)).name for repo_id in map(repo_of, named)}
    models = [
        CachedModel(
            name=wanted[repo.repo_id],
            repo_id=repo.repo_id,
            folder=repo.repo_path,
            size_bytes=repo.size_on_disk,
            last_used=_last_used(repo.repo_path, repo.last_modified),
            whole=find_cached(repo.repo_id, cache_path, revision=_revision(repo.repo_id)) is not None,
        )
        for repo in _repos(_cache_info(cache_path))
        if repo.repo_id in wanted and repo.repo_type == "model"
    ]
    return sorted(models, key=lambda model: model.last_used, reverse=True)


def repo_of(model_name: str) -> str:
    """The repository's id of a short name or an id. Raises ModelNotFound for anything else."""
    known = find_known(model_name)
    if known is not None and known.repo_id is not None:
        return known.repo_id
    if known is not None:
        raise ModelNotFound(f"{model_name!r} is inside this package, so it is in no cache: nothing to fetch or remove.")
    if not REPO_ID.fullmatch(model_name):
        raise ModelNotFound(
            f"{model_name!r} is neither a short name nor a repository's id (owner/name). `chroma-mlx models list` "
            "shows the short names."
        )
    return model_name


def remove_model(model_name: str, cache_path: Path | None = None) -> int:
    """Removes a model from the cache; returns the bytes that are free now. Raises ModelNotFound if it is not there."""
    repo_id = repo_of(model_name)
    info = _cache_info(cache_path)
    repos = [repo for repo in _repos(info) if repo.repo_id == repo_id and repo.repo_type == "model"]
    if not repos:
        raise ModelNotFound(f"{model_name!r} ({repo_id}) is not in the cache, so there is nothing to remove.")
    strategy = info.delete_revisions(*(revision.commit_hash for revision in repos[0].revisions))
    strategy.execute()
    return int(strategy.expected_freed_size)


def plan_pruning(models: Collection[CachedModel], max_gb: float, keep: Collection[str] = ()) -> list[CachedModel]:
    """Which models go so that the rest takes at most `max_gb` (10**9 bytes), the least recently used first.

    Those whose repository is in `keep` stay, even if that is more.
    """
    size = sum(model.size_bytes for model in models)
    going = []
    for model in sorted(models, key=lambda model: model.last_used):
        if size <= max_gb * BYTES_A_GB:
            break
        if model.repo_id not in keep:
            going.append(model)
            size -= model.size_bytes
    return going


def prune_cache(cache_path: Path | None, max_gb: float, *, keep: Collection[str] = ()) -> list[CachedModel]:
    """Removes what `plan_pruning` says, but for the models named in `keep`; returns what is gone."""
    kept = {known.repo_id for known in map(find_known, keep) if known} | set(keep)
    going = plan_pruning(list_cached(cache_path), max_gb, {repo_id for repo_id in kept if repo_id})
    for model in going:
        remove_model(model.repo_id, cache_path)
    return going


def verify_files(model_name: str, cache_path: Path | None = None) -> list[str]:
    """The files of a cached model, each held against the hash that the Hub has for it.

    Raises DownloadError when the model is not whole in the cache, CorruptCheckpoint naming a file that differs.
    """
    repo_id = repo_of(model_name)
    folder = find_cached(repo_id, cache_path, revision=_revision(repo_id))
    if folder is None:
        raise DownloadError(
            f"{model_name!r} is not whole in the cache. Fetch it: `chroma-mlx models download {model_name}`."
        )
    checked = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = Path(os.path.realpath(file))
        # The cache names a blob by the hash that the Hub stated: SHA-256 for large files, git's for small ones.
        found = {SHA256_DIGITS: hash_file, SHA1_DIGITS: _hash_as_git}.get(len(blob.name))
        if found is not None and found(blob) != blob.name:
            raise CorruptCheckpoint(
                f"{file.relative_to(folder)} of {model_name} is not what the Hub has: its hash differs. Remove the "
                f"model (`chroma-mlx models remove {model_name}`) and download it again."
            )
        checked.append(str(file.relative_to(folder)))
    return checked


def mark_used(folder: Path) -> None:
    """Notes that a model of the cache is in use now, beside its files.

    (The access times of the files do not tell: reading them to see whether they are whole changes them, and
    many systems keep none.) A folder that is no cache's, or cannot be written to, is left as it is.
    """
    if folder.parent.name == "snapshots":
        with contextlib.suppress(OSError):
            (folder.parent.parent / MARK).touch()


def _last_used(repository: Path, downloaded: float) -> float:
    try:
        return (repository / MARK).stat().st_mtime
    except OSError:
        return downloaded


@dataclass(frozen=True, slots=True)
class _Named:
    """A repository that the table does not have, under its id."""

    name: str


def _revision(repo_id: str) -> str | None:
    known = find_known(repo_id)
    return known.revision if known else None


def _cache_info(cache_path: Path | None) -> Any:
    client = hub()
    try:
        return client.scan_cache_dir(cache_path)
    except client.errors.CacheNotFound:
        return None


def _repos(info: Any) -> Collection[Any]:
    return info.repos if info is not None else ()


def _hash_as_git(file: Path) -> str:
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
