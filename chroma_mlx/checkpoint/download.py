"""Fetches a model into the Hub's cache: room on the disk first, then the files, and a note of what is whole."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ..errors import CheckpointError, CorruptCheckpoint, DownloadError, UnsupportedModel
from ..progress import shows_progress
from .fetch import Source, drop_damaged, drop_differing, fetch_files, hold_against_hash, is_in_cache
from .hashes import SHA1, SHA256, matching
from .hub import TransientError, by_hand, hub, hub_errors, repository_folder
from .listing import (
    PATTERNS,
    ListedFile,
    Listing,
    is_inside,
    is_needed,
    read_listing,
    write_listing,
    write_whole,
)
from .open import Checkpoint, open_checkpoint
from .partial import partials

ATTEMPTS: Final = 5
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 60.0
# Left free beside the files: a cache that fills a disk stops more than this program.
SPARE_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Remote:
    """What the Hub says of a repository: the commit that is asked for, and its files that a model needs."""

    commit: str
    files: tuple[ListedFile, ...]


@dataclass(slots=True)
class _Done:
    """What the attempts of a download have done: the large files that came, and whether it began the snapshot."""

    fetched: set[str] = field(default_factory=set)
    began: bool | None = None


def download(
    repo_id: str,
    *,
    revision: str | None,
    cache_path: Path | None,
    show_progress: bool | None,
    on_fetch: Callable[[Path], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Downloads what a text model needs of a repository; returns its folder in the cache.

    What is there is not fetched again, and what an interrupted run has left is taken up. Errors of the
    network and the server's "too many" are tried again up to ATTEMPTS times, with waits that double or are
    what the server asks for. Two processes that begin at once download once: each file is locked as the
    client does it. `on_fetch` is called with the folder when large files came over the network.

    Raises ModelNotFound, DownloadError (which names the manual way), CorruptCheckpoint for a file whose
    content is not the Hub's.
    """
    wait = FIRST_WAIT_S
    done = _Done()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            folder = _download_once(repo_id, revision, cache_path, show_progress, done)
        except TransientError as error:
            asked = error.retry_after_s
            # Spread a little, or all that were refused together would come again together.
            pause = wait * (1.0 + 0.25 * random.random()) if asked is None else asked
            if attempt == ATTEMPTS or pause > LONGEST_WAIT_S:
                raise DownloadError(str(error)) from error.__cause__
            sleep(pause)
            wait *= 2.0
        else:
            if done.fetched and on_fetch is not None:
                on_fetch(folder)
            return folder
    raise AssertionError("the last attempt returns or raises")


def ask_hub(repo_id: str, revision: str | None) -> Remote:
    """The files of a repository that PATTERNS take. Raises what hub_errors does, DownloadError where there are none."""
    with hub_errors(repo_id):
        info = hub().HfApi(library_name="chroma-mlx").model_info(repo_id, revision=revision, files_metadata=True)
    files = tuple(_listed(repo_id, each) for each in info.siblings or [] if is_needed(each.rfilename))
    has_weights = any(file.path.endswith(".safetensors") for file in files)
    if not has_weights or not any(Path(file.path).name == "config.json" for file in files):
        raise DownloadError(
            f"The repository {repo_id} has no *.safetensors with a config.json, so it holds no model that this engine "
            f"can run. Use a conversion in safetensors. {by_hand(repo_id)}"
        )
    return Remote(_name(repo_id, SHA1, info.sha), files)


def try_opening(folder: Path) -> Checkpoint | None:
    """The checkpoint of a folder whose files go together; None if it is one that this engine does not compute.

    (Loading says what is not supported.) Raises CheckpointError when files are missing or damaged.
    """
    try:
        return open_checkpoint(folder)
    except UnsupportedModel:
        return None


def _download_once(
    repo_id: str, revision: str | None, cache_path: Path | None, show_progress: bool | None, done: _Done
) -> Path:
    """One attempt; notes in `done` what it did."""
    remote = ask_hub(repo_id, revision)
    repository = repository_folder(cache_path, repo_id)
    bars = {"tqdm_class": _bar_class(shown=_shows_bars(show_progress))}
    source = Source(repo_id, remote.commit, repository, bars)
    if done.began is None:
        # Other programs make the snapshot at their first file, this one at the last.
        done.began = not (repository / "snapshots" / remote.commit).exists()
    _check_room(source, remote.files)
    for file in remote.files:
        drop_damaged(source, file)  # or the client, to which a name is enough, would leave it
    absent = [file for file in remote.files if not is_in_cache(source, file)]
    done.fetched.update(file.path for file in absent if file.sha256)  # it counts once all have come
    fetch_files(source, absent)
    still_absent = [file for file in absent if not is_in_cache(source, file)]
    with hub_errors(repo_id):
        folder = Path(
            hub().snapshot_download(
                repo_id,
                revision=remote.commit,  # a branch could have moved since it was asked for
                cache_dir=cache_path,
                allow_patterns=list(PATTERNS),
                library_name="chroma-mlx",
                **bars,
            )
        )
    for file in still_absent:
        hold_against_hash(source, file)
    listing = Listing(remote.files, fetched=done.began)
    _check_whole(source, folder, listing)
    earlier = read_listing(folder)
    write_listing(folder, replace(listing, fetched=listing.fetched or bool(earlier and earlier.fetched)))
    _note_revision(repository, revision or "main", remote.commit)
    return folder


def _check_whole(source: Source, folder: Path, listing: Listing) -> None:
    missing = listing.missing(folder)
    if missing:
        # Where the Hub fails in between, the client returns what it has.
        raise TransientError(
            f"The download of {source.repo_id} ended without {', '.join(missing[:3])}. The Hub gave no answer for "
            f"them, or a file in the cache is damaged. Download it again, after `chroma-mlx models remove "
            f"{source.repo_id}` if that changes nothing. {by_hand(source.repo_id)}",
            retry_after_s=None,
        )
    try:
        try_opening(folder)
    except CheckpointError as error:
        damaged = [file.path for file in listing.files if drop_differing(source, file)]
        if damaged:  # in the cache, where only sizes are looked at: what comes is held against its hash
            raise TransientError(
                f"{', '.join(damaged)} of {source.repo_id} was damaged in the cache and was removed. Download the "
                f"model again. {by_hand(source.repo_id)}",
                retry_after_s=0.0,
            ) from error
        raise CorruptCheckpoint(
            f"The repository {source.repo_id} was downloaded whole, but is no checkpoint that works: {error}"
        ) from error


def _note_revision(repository: Path, revision: str, commit: str) -> None:
    """Notes which commit a branch or tag is, as the client does when it is asked for one."""
    if revision != commit and is_inside(revision):
        with contextlib.suppress(OSError):
            write_whole(repository / "refs" / revision, commit)


def _listed(repo_id: str, each: Any) -> ListedFile:
    if not is_inside(each.rfilename):
        raise _not_sound(repo_id, each.rfilename)
    sha256 = getattr(each.lfs, "sha256", None) if each.lfs else None
    return ListedFile(
        each.rfilename,
        int(each.size or 0),
        None if sha256 is None else _name(repo_id, SHA256, sha256),
        None if each.blob_id is None else _name(repo_id, SHA1, each.blob_id),
    )


def _name(repo_id: str, pattern: Any, value: object) -> str:
    """A hash that the server states. It becomes a file's name, so nothing else will do."""
    found = matching(pattern, value)
    if found is None:
        raise _not_sound(repo_id, value)
    return found


def _not_sound(repo_id: str, value: object) -> DownloadError:
    return DownloadError(
        f"The server's description of {repo_id} has {str(value)[:80]!r} where the hash or the name of a file should "
        "be. It is no Hub, or something between changed its answer, so nothing was fetched. See what HF_ENDPOINT and "
        f"the proxy are set to. {by_hand(repo_id)}"
    )


def _check_room(source: Source, files: Sequence[ListedFile]) -> None:
    """Raises DownloadError unless the disk of the cache holds what is still to come."""
    cache = source.repository.parent
    needed = sum(
        max(0, file.size - _bytes_begun(source.repository, file)) for file in files if not is_in_cache(source, file)
    )
    existing = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + SPARE_BYTES > free:
        raise DownloadError(
            f"The model {source.repo_id} needs {needed / 1e9:.2f} GB more in {cache}, but only {free / 1e9:.2f} GB are "
            "free there. Make room (`chroma-mlx models prune --max-gb N`), or set cache_dir or CHROMA_MLX_CACHE_DIR to "
            "a larger disk."
        )


def _bytes_begun(repository: Path, file: ListedFile) -> int:
    """How much of a file an unfinished download has; what other versions of a repository have does not count."""
    begun = partials(repository / "blobs" / file.blob) if file.blob else []
    return next((partial.stat().st_size for partial in begun if partial.exists()), 0)


def _shows_bars(show: bool | None) -> bool:
    """As everywhere here; where nothing is said, the client's HF_HUB_DISABLE_PROGRESS_BARS holds, too."""
    return shows_progress(show) and not (show is None and hub().utils.are_progress_bars_disabled())


def _bar_class(*, shown: bool) -> Any:
    """The bars of the client, which by itself shows some of them on a terminal only."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]  # the class is generic for type checkers only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": not shown})

    return Bar
