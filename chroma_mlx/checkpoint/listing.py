"""Which files of a commit a cached model has to have: as this program noted them, or as the Hub's client did.

Without either, nobody can tell from a folder whether it is whole: other programs fetch single files.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from .hashes import SHA1, SHA256, matching

# What a text model needs; not its ONNX, PyTorch or OpenVINO twins, which can be most of a repository.
PATTERNS: Final = ("*.json", "*.safetensors")
# The format of the client's own listing, trees/COMMIT.json, that is known here (as of huggingface_hub 2.4).
CLIENT_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that a model needs; `sha256` where the Hub keeps it as a large file, else `sha1`, git's hash of it.

    Either is None where the Hub does not say. The cache names the file by the hash that there is.
    """

    path: str
    size: int
    sha256: str | None
    sha1: str | None

    @property
    def blob(self) -> str | None:
        """Its name in the cache."""
        return self.sha256 or self.sha1


@dataclass(frozen=True, slots=True)
class Listing:
    """What a commit has to have. `fetched`: this program began the snapshot, so it is its own."""

    files: tuple[ListedFile, ...]
    fetched: bool

    def missing(self, snapshot: Path) -> list[str]:
        """The files that are not in a folder, or not in their size."""
        return [file.path for file in self.files if not _is_there(snapshot / file.path, file.size)]


def is_needed(path: str) -> bool:
    """Whether a file of a repository is one that a text model needs."""
    return any(fnmatch(path, pattern) for pattern in PATTERNS)


def is_inside(path: str) -> bool:
    """Whether a path of a repository's file stays in its folder."""
    return bool(path) and not Path(path).is_absolute() and ".." not in Path(path).parts and "\\" not in path


def read_listing(snapshot: Path) -> Listing | None:
    """The listing of a cached commit: our own, else the client's; None where there is none that can be read."""
    try:
        return _own_listing(snapshot) or _clients_listing(snapshot)
    except (TypeError, ValueError, AttributeError, KeyError):  # a file of another form is none
        return None


def has_own_listing(repository: Path) -> bool:
    """Whether this program noted of any commit of a repository that it fetched it."""
    notes = (_read(file) for file in repository.glob("chroma-mlx.*.json"))
    return any(note.get("fetched") for note in notes)


def write_listing(snapshot: Path, listing: Listing) -> None:
    """Notes that a snapshot is whole. One that cannot be noted is asked for again at the next use, no more."""
    content = {
        "fetched": listing.fetched,
        "files": {file.path: {"size": file.size, "sha256": file.sha256, "sha1": file.sha1} for file in listing.files},
    }
    with contextlib.suppress(OSError):
        write_whole(_own_file(snapshot), json.dumps(content, indent=1))


def write_whole(file: Path, text: str) -> None:
    """Writes a file so that nobody ever reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose files are their owner's alone: a cache may be shared by several accounts.
    new = file.with_name(f"{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        with new.open("x", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _own_file(snapshot: Path) -> Path:
    return snapshot.parent.parent / f"chroma-mlx.{snapshot.name}.json"


def _own_listing(snapshot: Path) -> Listing | None:
    content = _read(_own_file(snapshot))
    files = _files(content.get("files", {}).items())
    return Listing(files, bool(content.get("fetched"))) if files else None


def _clients_listing(snapshot: Path) -> Listing | None:
    content = _read(snapshot.parent.parent / "trees" / f"{snapshot.name}.json")
    if content.get("format_version") != CLIENT_FORMAT:
        return None
    files = _files(
        (path, {"size": entry["size"], "sha256": entry.get("lfs_sha256"), "sha1": entry.get("blob_id")})
        for path, entry in content.get("files", {}).items()
        if is_needed(path)
    )
    return Listing(files, fetched=False) if files else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _files(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[ListedFile, ...]:
    return tuple(
        ListedFile(
            path,
            int(entry.get("size") or 0),
            matching(SHA256, entry.get("sha256")),
            matching(SHA1, entry.get("sha1")),
        )
        for path, entry in entries
        if is_inside(path)
    )


def _is_there(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size if size else file.is_file()
    except OSError:
        return False
