"""What follows when all sources are read: records that are gone, and those that only the replaced collection has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..errors import CollectionMismatch
from .diff import Change, RecordChanges
from .passage import SOURCE, Passage, Record, record_id_of, stored_passages
from .pipeline import Embedding
from .preparing import Work
from .report import Counts
from .seen import Seen
from .sources import Sources
from .store import IDS_A_CALL, Store

# Of a page of the old collection, what is embedded together.
CARRIED_A_BATCH: Final = 256


def is_gone(id: str, metadata: Mapping[str, Any], *, scope: Sources | str, seen: Seen) -> bool:
    """Whether an ingest put a stored passage there, from a source of this run, that has it no more.

    `scope` are the files and folders of the run, or the name of records in memory.
    """
    source = metadata.get(SOURCE)
    if not stored_passages(metadata) or not isinstance(source, str):
        return False
    covered = source == scope if isinstance(scope, str) else scope.covers(source)
    return covered and not seen.protects(source) and not seen.stands_for(record_id_of(id, metadata))


def delete_gone(store: Store, *, scope: Sources | str, seen: Seen, counts: Counts) -> None:
    """Deletes what is gone. Raises IngestStopped."""
    for page in store.pages():
        rows = zip(page["ids"], page["metadatas"], strict=True)
        seen.note_gone([id for id, metadata in rows if is_gone(id, metadata or {}, scope=scope, seen=seen)])
    for part in seen.take_gone(IDS_A_CALL):
        counts.add(deleted=store.delete(part))


def carry_over(
    old: Store, new: Store, *, embedding: Embedding, scope: Sources | str | None, seen: Seen, counts: Counts
) -> None:
    """Embeds what only the old collection has into the new one, by the texts that it stores.

    That is what other ingests and other programs put there; with a `scope` not what is gone from the sources.
    Raises CollectionMismatch for a record without a text, IngestStopped, and what embedding raises.
    """
    for page in old.pages(documents=True):
        rows = [
            (id, metadata or {}, text)
            for id, metadata, text in zip(page["ids"], page["metadatas"], page["documents"], strict=True)
            if not _is_replaced(id, metadata or {}, seen)
            and (scope is None or not is_gone(id, metadata or {}, scope=scope, seen=seen))
        ]
        there = new.look_up([id for id, _, _ in rows])
        missing = [row for row in rows if row[0] not in there]
        for work in _works(missing):
            kept, vectors = embedding.embed(work)
            new.put(kept.embed, vectors)
            counts.add(carried=len(kept.embed), embedded=len(kept.embed))


def _is_replaced(id: str, metadata: Mapping[str, Any], seen: Seen) -> bool:
    """Whether this run has a record in the place of a stored one."""
    return seen.claimed(id) or (stored_passages(metadata) > 0 and seen.claimed(record_id_of(id, metadata)))


def _works(rows: list[tuple[str, Mapping[str, Any], str | None]]) -> Iterator[Work]:
    for start in range(0, len(rows), CARRIED_A_BATCH):
        parts = []
        for id, metadata, text in rows[start : start + CARRIED_A_BATCH]:
            if text is None:
                raise CollectionMismatch(
                    f"Record {id!r} of the collection has no text, only a vector of another model, so that it cannot "
                    "be embedded anew. The collection is as it was. Ingest into another one, or delete the record.",
                    differences={"text": (None, id)},
                )
            passage = Passage(id=id, text=text, metadata=metadata)
            record = Record(id=id, source=str(metadata.get(SOURCE, "")), place={}, passages=(passage,))
            parts.append(RecordChanges(record=record, embed=(Change(passage),)))
        yield Work(parts=tuple(parts), size=0)
