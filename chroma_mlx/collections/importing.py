"""A Parquet file into a collection: everything is checked before the first write, and a second run does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..disk import disk_errors, folder_of, need_room, room_for
from ..errors import RecordConflict
from ..pages import Page, get_records, page_records, take, take_ids
from ..progress import progress_bar
from ..router.target import space_of
from .checking import check_file
from .parquet import Origin, opened, read_batches
from .same_records import same_records
from .target import make_target, open_target

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did with the file's records.

    `added` were not there; `present` were there and the same; `replaced` were there and others.
    """

    added: int
    present: int
    replaced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """An export whose every record may go into a collection."""

    file: Any
    origin: Origin


@contextmanager
def checked_file(path: Path) -> Iterator[CheckedFile]:
    """Opens a file and reads it to its end. Raises ExportFileError for what is not whole or not right."""
    with opened(path) as (file, origin):
        check_file(path, file)
        yield CheckedFile(file=file, origin=origin)


@disk_errors()
def import_collection(client: ClientAPI, source: CheckedFile, name: str, *, overwrite: bool = False) -> Imported:
    """Puts a file's records into collection `name`, which is made as the exported one was if there is none.

    Run again after it was stopped it does what is left; run again after it was done, nothing. Memory is bounded by a
    page of records, and some 40 bytes an id. Raises, before anything is written, CollectionMismatch,
    DimensionMismatch or ConfigError for a collection that the vectors do not fit, and RecordConflict when records are
    there that differ, and `overwrite` is not given.
    """
    target = open_target(client, name, source.origin)
    ids, count = ([], 0) if target is None else _conflicts(target, source.file)
    if count and not overwrite:
        raise RecordConflict(name=name, ids=ids, count=count)
    collection = make_target(client, name, source.origin) if target is None else target
    return _write(client, collection, source)


def _conflicts(target: Collection, file: Any) -> tuple[list[str], int]:
    """The first ids of records that are in the collection and differ from the file's, and how many do."""
    found: list[str] = []
    count = 0
    if target.count() == 0:
        return found, count
    cosine = space_of(target) == "cosine"
    for page in _pages(file, page_records(target.get_model()["dimension"])):
        there = get_records(target, page.ids)
        differ = np.flatnonzero(~same_records(take_ids(page, there.ids), there, rounded=cosine))
        found += [there.ids[place] for place in differ[: NAMED - len(found)]]
        count += len(differ)
    return found, count


def _write(client: ClientAPI, collection: Collection, source: CheckedFile) -> Imported:
    size = min(page_records(source.origin.dimension), client.get_max_batch_size())
    cosine, folder = space_of(collection) == "cosine", folder_of(client)
    added = present = replaced = 0
    with progress_bar(source.file.metadata.num_rows, None, unit="records", task="Importing") as bar:
        for page in _pages(source.file, size):
            there = get_records(collection, page.ids)
            same = same_records(take_ids(page, there.ids), there, rounded=cosine)
            kept = {id for id, right in zip(there.ids, same, strict=True) if right}
            need_room(folder, room_for(page.documents, page.embeddings.shape[1]))
            if other := [id for id in there.ids if id not in kept]:
                # An upsert would keep the metadata keys, the document and the uri that the file's record has not.
                collection.delete(ids=other)
            writing = take_ids(page, [id for id in page.ids if id not in kept])
            if len(writing):
                _add(collection, writing)
            present += len(kept)
            replaced += len(other)
            added += len(writing) - len(other)
            bar.update(len(page))
    return Imported(added=added, present=present, replaced=replaced)


def _add(collection: Collection, page: Page) -> None:
    columns: dict[str, Any] = {"documents": page.documents, "metadatas": page.metadatas, "uris": page.uris}
    given = {key: list(values) for key, values in columns.items() if any(value is not None for value in values)}
    collection.add(ids=list(page.ids), embeddings=list(page.embeddings), **given)


def _pages(file: Any, size: int) -> Iterator[Page]:
    for batch in read_batches(file):
        for start in range(0, len(batch), size):
            yield take(batch, range(start, min(start + size, len(batch))))
