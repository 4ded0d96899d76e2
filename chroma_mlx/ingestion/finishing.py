"""What follows when all sources are read: records that are gone, and those that only the replaced collection has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..errors import CollectionMismatch
from .diff import Copied, compare_copy
from .passage import SOURCE, Passage, record_id_of, stored_passages
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
    """Deletes what is gone. Raises IngestStopped and CollectionChanged."""
    for page in store.pages():
        rows = zip(page.ids, page.metadatas, strict=True)
        seen.note_gone([id for id, metadata in rows if is_gone(id, metadata or {}, scope=scope, seen=seen)])
    for part in seen.take_gone(IDS_A_CALL):
        counts.add(deleted=store.delete(part))


def carry_over(
    old: Store, new: Store, *, embedding: Embedding, scope: Sources | str | None, seen: Seen, counts: Counts
) -> None:
    """Embeds what only the old collection has into the new one, by the texts that it stores.

    That is what other ingests and other programs put there; with a `scope` not what is gone from the sources. What an
    interrupted run left in the new one is made the same, and deleted where the old one has it no more.
    Raises CollectionMismatch for a record without a text, IngestStopped, CollectionChanged, and what embedding raises.
    """

    def carried(id: str, metadata: Mapping[str, Any]) -> bool:
        return not _is_replaced(id, metadata, seen) and (
            scope is None or not is_gone(id, metadata, scope=scope, seen=seen)
        )

    for page in new.pages():
        others = [id for id in page.ids if not seen.claimed(id)]
        there = old.look_up(others)
        seen.note_gone([id for id in others if id not in there or not carried(id, there[id])])
    for part in seen.take_gone(IDS_A_CALL):
        new.delete(part)
    for page in old.pages(documents=True):
        rows = [
            (id, metadata or {}, text, uri)
            for id, metadata, text, uri in zip(page.ids, page.metadatas, page.documents, page.uris, strict=True)
            if carried(id, metadata or {})
        ]
        for work in _works(rows, new.records([row[0] for row in rows])):
            kept, vectors = embedding.embed(work)
            relabel = [change for part in kept.parts for change in part.relabel]
            new.relabel(relabel)
            new.put(kept.embed, vectors)
            counts.add(carried=len(kept.embed) + len(relabel), embedded=len(kept.embed))


def _is_replaced(id: str, metadata: Mapping[str, Any], seen: Seen) -> bool:
    """Whether this run has a record in the place of a stored one."""
    return seen.claimed(id) or (stored_passages(metadata) > 0 and seen.claimed(record_id_of(id, metadata)))


def _works(
    rows: Sequence[tuple[str, Mapping[str, Any], str | None, str | None]], there: Mapping[str, Copied]
) -> Iterator[Work]:
    """What rows (id, metadata, text, uri) change in a collection that has `there` of them, by id."""
    for start in range(0, len(rows), CARRIED_A_BATCH):
        parts = []
        for id, metadata, text, uri in rows[start : start + CARRIED_A_BATCH]:
            if text is None:
                raise CollectionMismatch(
                    f"Record {id!r} of the collection has no text, only a vector of another model, so that it cannot "
                    "be embedded anew. The collection is as it was. Ingest into another one, or delete the record.",
                    differences={"text": (None, id)},
                )
            passage = Passage(id=id, text=text, metadata=metadata, uri=uri)
            parts.append(compare_copy(str(metadata.get(SOURCE, "")), passage, there.get(id)))
        yield Work(parts=tuple(parts), size=0)
