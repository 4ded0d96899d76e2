"""A model in the Hub's cache: where it is, and whether all of it is there. Asks no network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, UncheckedModel
from ..models.known import find_known
from .declared import Declared
from .download import try_opening
from .hashes import SHA1
from .hub import cache_errors, repository_folder
from .listing import is_inside, read_listing
from .open import Checkpoint


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cached checkpoint whose files go together.

    `whole`: it is known to have every file, from a listing of its commit (see `listing`). Otherwise nobody can
    tell: another program may have fetched only what it needed, such as the weights without the pooling.
    `checkpoint` is None for one that this engine does not compute.
    """

    folder: Path
    checkpoint: Checkpoint | None
    whole: bool


def find_snapshot(repo_id: str, cache_path: Path | None, *, revision: str | None = None) -> Snapshot | None:
    """The cached checkpoint of a repository, or None: there is none, it does not open, or it lacks listed files."""
    with cache_errors(cache_path):
        folder = _snapshot_folder(repository_folder(cache_path, repo_id), revision or "main")
        if folder is None or not folder.is_dir():
            return None
    listing = read_listing(folder)
    if listing is not None and listing.missing(folder):
        return None
    try:
        return Snapshot(folder, try_opening(folder), whole=listing is not None)
    except CheckpointError:
        return None  # an interrupted download, which a new one resumes


def find_cached(repo_id: str, cache_path: Path | None, *, revision: str | None = None) -> Path | None:
    """The folder of a repository that is known to be whole in the Hub's cache, or None."""
    snapshot = find_snapshot(repo_id, cache_path, revision=revision)
    return snapshot.folder if snapshot is not None and snapshot.whole else None


def warn_if_unchecked(model_name: str, snapshot: Snapshot, why: str) -> None:
    """Warns when nothing says that a snapshot has all its files, and neither do its own; `why` the Hub was not asked.

    Pooling and prompts are then the table's, else the architecture's own. Dense layers that an architecture
    has and a checkpoint lacks are an error when it is loaded.
    """
    if snapshot.whole or snapshot.checkpoint is None or _names_what_is_there(snapshot.checkpoint.declared):
        return
    known = find_known(model_name)
    taken = f"the table's, {known.pooling!r}" if known else "the architecture's own, which may not be the model's"
    warnings.warn(
        f"The files of {model_name} in the cache may not be all: another program fetched them, or an unfinished "
        f"download did, and {why}. They do not declare the pooling; it is taken to be {taken}. To be sure, run "
        f"`chroma-mlx models download {model_name}` with a connection, which fetches only what is missing.",
        UncheckedModel,
        stacklevel=2,
    )


def _names_what_is_there(declared: Declared) -> bool:
    """Whether modules.json is there and so is what it names."""
    return declared.dense is not None and all(
        (layer.folder / "config.json").is_file() and any(layer.folder.glob("*.safetensors")) for layer in declared.dense
    )


def _snapshot_folder(repository: Path, revision: str) -> Path | None:
    """The layout of the cache is the Hub's documented one: refs/REVISION holds a commit, snapshots/COMMIT is it."""
    commit = revision
    if not SHA1.fullmatch(revision):
        if not is_inside(revision):
            return None
        try:
            commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
        except PermissionError:
            raise  # it may well be there
        except (OSError, ValueError):
            return None
    return repository / "snapshots" / commit if SHA1.fullmatch(commit) else None
