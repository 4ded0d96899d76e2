"""The collection as an ingest uses it: look up, put, relabel, delete, in calls that the client takes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..disk import room_for
from ..pages import Page, read_pages
from .diff import Change, Copied
from .retry import Retry

# Ids looked up or deleted in a call: well below the variables of an SQL statement.
IDS_A_CALL: Final = 5_000
# Where a client states no maximum.
RECORDS_A_CALL: Final = 1_000


class Store:
    """A collection of Chroma's, each call made by `retry`. Safe from any thread, as the collection is."""

    def __init__(self, chroma: Any, *, retry: Retry, max_batch: int | None) -> None:
        self.chroma, self._retry = chroma, retry
        self.max_batch = max_batch if max_batch is not None and max_batch > 0 else RECORDS_A_CALL

    def look_up(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The metadata of those ids that are there."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), IDS_A_CALL):
            part = list(ids[start : start + IDS_A_CALL])
            answer = self._retry.call(self.chroma.get, ids=part, include=["metadatas"])
            found.update(zip(answer["ids"], (each or {} for each in answer["metadatas"]), strict=True))
        return found

    def records(self, ids: Sequence[str]) -> dict[str, Copied]:
        """(text, metadata, uri) of those ids that are there."""
        found: dict[str, Copied] = {}
        for start in range(0, len(ids), IDS_A_CALL):
            part = list(ids[start : start + IDS_A_CALL])
            answer = self._retry.call(self.chroma.get, ids=part, include=["documents", "metadatas", "uris"])
            rows = zip(answer["ids"], answer["documents"], answer["metadatas"], answer["uris"], strict=True)
            found |= {id: (text, metadata or {}, uri) for id, text, metadata, uri in rows}
        return found

    def put(self, changes: Sequence[Change], vectors: npt.NDArray[np.float32]) -> None:
        """Writes passages with their vectors, (len(changes), dimension); what is there is replaced."""
        for start in range(0, len(changes), self.max_batch):
            part = changes[start : start + self.max_batch]
            self._retry.need_room(room_for([change.passage.text for change in part], vectors.shape[1]))
            self._retry.call(
                self.chroma.upsert,
                ids=[change.passage.id for change in part],
                embeddings=list(vectors[start : start + self.max_batch]),
                documents=[change.passage.text for change in part],
                metadatas=[change.metadata or None for change in part],
                **_uris(part),
            )

    def relabel(self, changes: Sequence[Change]) -> None:
        """Replaces the metadata and uris of passages."""
        for start in range(0, len(changes), self.max_batch):
            part = changes[start : start + self.max_batch]
            ids, metadatas = [change.passage.id for change in part], [change.metadata or None for change in part]
            self._retry.call(self.chroma.update, ids=ids, metadatas=metadatas, **_uris(part))

    def delete(self, ids: Sequence[str]) -> int:
        """Deletes those that are there; returns how many were."""
        deleted = 0
        most = min(IDS_A_CALL, self.max_batch)
        for start in range(0, len(ids), most):
            part = list(ids[start : start + most])
            there = self._retry.call(self.chroma.get, ids=part, include=[])["ids"]
            if there:
                self._retry.call(self.chroma.delete, ids=there)
                deleted += len(there)
        return deleted

    def count(self) -> int:
        """How many records there are."""
        return int(self._retry.call(self.chroma.count))

    def pages(self, *, documents: bool = False) -> Iterator[Page]:
        """Every record without its vector. Raises CollectionChanged where records are removed meanwhile."""
        get = functools.partial(self._retry.call, self.chroma.get)
        return read_pages(self.chroma, vectors=False, documents=documents, size=RECORDS_A_CALL, get=get)


def _uris(changes: Sequence[Change]) -> dict[str, list[str | None]]:
    """The argument of a call that has uris; none where no record has one, as nearly always."""
    uris = [change.passage.uri for change in changes]
    return {"uris": uris} if any(uris) else {}
