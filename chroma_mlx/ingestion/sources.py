"""What is to be ingested: files, folders, standard input, or records in memory."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from ..errors import ConfigError, InputError
from ..router.record import Record as GivenRecord
from .passage import Document, Reject
from .readers.formats import BY_ENDING, FORMATS
from .readers.rows import Columns, Row, read_row

STANDARD_INPUT: Final = "-"


@dataclass(frozen=True, slots=True)
class File:
    """A file to read: where it is, its name as a source, and its format. `path` None is standard input."""

    path: Path | None
    name: str
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The files and folders that were named, and how they are to be read; `skip` is one that is never read."""

    named: tuple[str, ...]
    format: str | None = None
    globs: tuple[str, ...] = ()
    base: Path | None = None
    skip: Path | None = None
    # Of those named, the names as sources, and (the beginning of what is in it, where it is) of each folder.
    _names: frozenset[str] = field(init=False, repr=False, compare=False)
    _folders: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ConfigError or InputError for what cannot be read at all, MissingPackage where a reader is missing."""
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"format is {self.format!r}, which is not known. Set it to one of {', '.join(FORMATS)}.")
        for name in self.named:
            if name == STANDARD_INPUT:
                if self.format is None:
                    raise ConfigError("Standard input has no name to know its format by. Set --format.")
            elif not os.path.exists(name):
                raise InputError(f"There is no file or folder {name!r} to ingest. Name one that is there.")
        formats = {file.format for file in self.files()}
        if not formats:
            raise InputError(
                f"There is nothing to ingest in {', '.join(self.named) or 'no source'}: no file has a known ending "
                f"({', '.join(BY_ENDING)}) or fits the globs. Set --format and --glob to say what to read. (An empty "
                "folder is not taken for one whose files are all gone: it may not be mounted.)"
            )
        for format in sorted(formats):
            FORMATS[format].check()
        own = {name: name if name == STANDARD_INPUT else self._name_of(name) for name in self.named}
        folders = [name for name in own if os.path.isdir(name)]
        starts = ["" if own[name] == "." else f"{own[name].rstrip('/')}/" for name in folders]
        object.__setattr__(self, "_names", frozenset(own.values()))
        object.__setattr__(self, "_folders", tuple(zip(starts, folders, strict=True)))

    def files(self) -> Iterator[File]:
        """Each file once, those of a folder in the order of their names."""
        seen = set[str]()
        for name in self.named:
            for path in [name] if name == STANDARD_INPUT or not os.path.isdir(name) else self._walk(name):
                file = self._file(path, named=path == name)
                if file is not None and (len(self.named) == 1 or file.name not in seen):
                    seen |= set() if len(self.named) == 1 else {file.name}
                    yield file

    def bytes(self) -> int | None:
        """What all files have together; None where standard input is among them."""
        total = 0
        for file in self.files():
            if file.path is None:
                return None
            with contextlib.suppress(OSError):  # gone since, or not to be read: which its reader tells
                total += file.path.stat().st_size
        return total

    def covers(self, source: str) -> bool:
        """Whether a source is one of those named, or would be read in a folder that is, were it there."""
        return source in self._names or any(
            source.startswith(own) and self._would_read(folder, source[len(own) :]) for own, folder in self._folders
        )

    def _walk(self, folder: str) -> Iterator[str]:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if _enters(os.path.join(parent, name)))
            for path in sorted(os.path.join(parent, name) for name in names):
                if self._takes(path, os.path.relpath(path, folder)):
                    yield path

    def _would_read(self, folder: str, relative: str) -> bool:
        """Whether `_walk` would come to a file of a folder, were it there."""
        parents = [os.path.join(folder, relative[:place]) for place, mark in enumerate(relative) if mark == "/"]
        inside = not os.path.isabs(relative)  # of the base itself, where that was named, others are none
        return inside and self._takes(os.path.join(folder, relative), relative) and all(map(_enters, parents))

    def _takes(self, path: str, relative: str) -> bool:
        """Whether a file, whose path below the folder that was named is `relative`, is read or would be."""
        name = os.path.basename(path)
        known = os.path.splitext(name)[1].lower() in BY_ENDING
        if self.globs:
            matches = any(fnmatch.fnmatch(each, glob) for glob in self.globs for each in (relative, name))
            known = matches and (known or self.format is not None)
        if not known or name.startswith(".") or (self.skip is not None and _same_path(path, self.skip)):
            return False
        # Whoever opened a pipe would wait for somebody to write to it.
        return os.path.isfile(path) or not os.path.exists(path)

    def _file(self, path: str, *, named: bool) -> File | None:
        if path == STANDARD_INPUT:
            return File(None, STANDARD_INPUT, str(self.format))
        format = self.format or BY_ENDING.get(os.path.splitext(path)[1].lower())
        if format is None and named:
            raise InputError(
                f"The format of {path!r} is not known by its ending ({', '.join(BY_ENDING)}). Set --format to one of "
                f"{', '.join(FORMATS)}."
            )
        return File(Path(path), self._name_of(path), format) if format is not None else None

    def _name_of(self, path: str) -> str:
        absolute = os.path.abspath(path)
        if self.base is None:
            return absolute
        relative = os.path.relpath(absolute, os.path.abspath(self.base))
        if relative == os.pardir or relative.startswith(os.pardir + os.sep):
            raise ConfigError(f"{path!r} is not below the base {str(self.base)!r}. Set --base to a folder above it.")
        return relative.replace(os.sep, "/")


def _enters(folder: str) -> bool:
    """Whether what is in a folder below the one that was named is read."""
    return not os.path.basename(folder).startswith(".") and not os.path.islink(folder)


def _same_path(one: str, other: Path) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)


def _raise(error: OSError) -> NoReturn:
    """A folder that cannot be read ends the run: what is in it must not be taken for gone."""
    raise error


def read_items(items: Iterable[Any], source: str, columns: Columns) -> Iterator[Document | Reject]:
    """The documents of records in memory: texts, mappings with a column for the text, or the router's records."""
    for number, item in enumerate(items, start=1):
        values: object = item
        place = {"row": number}
        if isinstance(item, str):
            values = {columns.text: item}
        elif isinstance(item, GivenRecord):
            values = {columns.text: item.text, columns.id or "id": item.id, "metadata": item.metadata}
        metadata: Mapping[Any, Any] = {}
        if isinstance(values, Mapping) and isinstance(nested := values.get("metadata"), Mapping | None):
            values = {key: value for key, value in values.items() if key != "metadata"}
            metadata = nested or {}
        excerpt = str(item)[:2000].encode("utf-8", "replace").decode()
        row = Row(source=source, place=place, values=values, excerpt=excerpt, size=0, metadata=metadata)
        if isinstance(item, GivenRecord) and item.vector is not None:
            yield row.refuse("it has a vector of its own, which is for the router's upsert", id=item.id)
        elif isinstance(item, GivenRecord) and item.uri is not None:
            yield row.refuse("it has a uri, which no ingest stores: put it into the metadata", id=item.id)
        else:
            yield read_row(row, columns)
