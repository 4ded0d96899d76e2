"""What is to be ingested: files, folders, standard input, or records in memory."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
        for name in self.named:
            own = name if name == STANDARD_INPUT else self._name_of(name)
            folder = "" if own == "." else f"{own.rstrip('/')}/"
            inside = os.path.isdir(name) and source.startswith(folder)
            if source == own or (inside and self._fits(source[len(folder) :])):
                return True
        return False

    def _walk(self, folder: str) -> Iterator[str]:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for name in sorted(names):
                path = os.path.join(parent, name)
                if name.startswith(".") or (
                    self.skip is not None and os.path.abspath(path) == os.path.abspath(self.skip)
                ):
                    continue
                # Whoever opened a pipe would wait for somebody to write to it.
                regular = os.path.isfile(path) or not os.path.exists(path)
                if regular and self._fits(os.path.relpath(path, folder)):
                    yield path

    def _fits(self, relative: str) -> bool:
        if self.globs:
            name = os.path.basename(relative)
            return any(fnmatch.fnmatch(relative, glob) or fnmatch.fnmatch(name, glob) for glob in self.globs)
        return os.path.splitext(relative)[1].lower() in BY_ENDING

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
        if isinstance(values, Mapping) and isinstance(nested := values.get("metadata"), Mapping | None):
            values = {**{key: value for key, value in values.items() if key != "metadata"}, **(nested or {})}
        excerpt = str(item)[:2000].encode("utf-8", "replace").decode()
        row = Row(source=source, place=place, values=values, excerpt=excerpt, size=0)
        if isinstance(item, GivenRecord) and item.vector is not None:
            yield row.refuse("it has a vector of its own, which is for the router's upsert", id=item.id)
        elif isinstance(item, GivenRecord) and item.uri is not None:
            yield row.refuse("it has a uri, which no ingest stores: put it into the metadata", id=item.id)
        else:
            yield read_row(row, columns)
