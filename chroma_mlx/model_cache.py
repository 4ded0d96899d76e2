"""The known models and those in the Hub's cache: what `chroma-mlx models` does, as functions.

    from chroma_mlx import model_cache

    folder = model_cache.download_model("qwen3-0.6b-4bit")

Every function takes `config` as the embedding function does (an EmbeddingConfig, the path of a file, or None
for the configuration in force), and from it the cache's folder. Model names are short names or repository ids.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint import cache
from .checkpoint.cache import CachedModel, VerifiedFiles
from .checkpoint.download import try_opening
from .checkpoint.locate import local_folder, locate
from .config import ConfigSource, EmbeddingConfig, resolve
from .errors import ModelNotFound
from .settings import VectorSettings

if TYPE_CHECKING:
    from .diagnosis.description import Description

__all__ = [
    "CachedModel",
    "VerifiedFiles",
    "download_model",
    "list_models",
    "model_info",
    "model_path",
    "prune_models",
    "remove_model",
    "verify_model",
]


def list_models(*, named: Collection[str] = (), config: ConfigSource = None) -> list[CachedModel]:
    """The cached models of the table, others that this program fetched, and those `named`, the last used first.

    Raises CacheError, as do all of these where the cache's files cannot be read or written.
    """
    return cache.list_cached(_cache_path(config), named=named)


def model_info(model_name: str, *, config: ConfigSource = None) -> Description:
    """What the table says of a model (a folder, too), what its files state, and what differs.

    Fetches and loads nothing.

    Raises ModelNotFound for one that is neither in the table nor on this disk, CheckpointError.
    """
    from .diagnosis.description import describe_model

    return describe_model(resolve(config, {"model_name": model_name, "mode": "mlx"}).config)


def download_model(model_name: str, *, show_progress: bool | None = None, config: ConfigSource = None) -> Path:
    """Fetches what is missing of a model; returns its folder. Then `max_cache_gb` of the configuration holds.

    `show_progress` None is the configuration's. What could not be pruned is the warning CacheNotPruned.

    Raises ModelNotFound, DownloadError, and CheckpointError for a folder that holds no model.
    """
    settings = resolve(config).config
    _check_folder(model_name)
    fetched: list[Path] = []
    folder = locate(
        model_name,
        cache_path=settings.cache_path,
        auto_download=True,
        show_progress=settings.show_progress if show_progress is None else show_progress,
        on_fetch=fetched.append,
    )
    if fetched and settings.max_cache_gb is not None:
        cache.keep_within(settings.cache_path, settings.max_cache_gb, keep=fetched)
    return folder


def verify_model(model_name: str, *, config: ConfigSource = None) -> VerifiedFiles:
    """Holds a cached model's files against the Hub's hashes. Raises DownloadError, CorruptCheckpoint."""
    return cache.verify_files(model_name, _resolved(model_name, config).cache_path)


def remove_model(model_name: str, *, config: ConfigSource = None) -> int:
    """Removes a model from the cache; returns the bytes that are free now. Raises ModelNotFound, CacheError."""
    return cache.remove_model(model_name, _resolved(model_name, config).cache_path)


def prune_models(
    max_gb: float, *, also: Collection[str] = (), dry_run: bool = False, config: ConfigSource = None
) -> list[CachedModel]:
    """Removes the models used least recently until the rest takes at most `max_gb` (10**9 bytes); returns them.

    Only those of the table that this program fetched, and those named in `also`. `dry_run` removes nothing.

    Raises InputError for a `max_gb` that is no size, ModelNotFound for one of `also` that is not in the cache,
    CacheError when one could not be removed.
    """
    path = _cache_path(config)
    cached = {model.repo_id for model in cache.list_cached(path, named=also)}
    if absent := [name for name in also if cache.repo_of(name) not in cached]:
        raise ModelNotFound(
            f"{', '.join(map(repr, absent))} is not in the cache, so it cannot go. Nothing was removed."
        )
    if dry_run:
        return cache.plan_pruning(cache.prunable(path, named=also), max_gb)
    return cache.prune_cache(path, max_gb, named=also)


def model_path(model_name: str, *, config: ConfigSource = None) -> Path:
    """The folder of a model that is on this disk. Fetches nothing.

    Raises ModelNotFound, DownloadError, and CheckpointError for a folder that holds no model.
    """
    _check_folder(model_name)
    return locate(
        model_name,
        cache_path=_resolved(model_name, config).cache_path,
        auto_download=False,
        show_progress=False,
        why_not=f"this fetches nothing: `chroma-mlx models download {model_name}` does",
    )


def _check_folder(model_name: str) -> None:
    """Raises CheckpointError for a folder of the user's that is not a model's, ConfigError for no text."""
    VectorSettings(model_name=model_name)
    folder = local_folder(model_name)
    if folder is not None:
        try_opening(folder)


def _resolved(model_name: str, config: ConfigSource) -> EmbeddingConfig:
    """The configuration; raises ConfigError for a name that is no text."""
    settings = resolve(config).config
    VectorSettings(model_name=model_name)
    return settings


def _cache_path(config: ConfigSource) -> Path | None:
    return resolve(config).config.cache_path
