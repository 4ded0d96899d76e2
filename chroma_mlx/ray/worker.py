"""A worker of an ingest: an actor of Ray's that cuts, looks up, embeds and writes blocks of documents.

What it does may be done again, by itself or another, when it dies: looking up changes nothing, and writing the
same changes twice leaves the same in the collection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..config import EmbeddingConfig
from ..database import Server
from ..errors import IngestStopped
from ..ingestion.cutting import Cutter
from ..ingestion.diff import RecordChanges
from ..ingestion.opening import Opened, find, open_beside
from ..ingestion.passage import Document, Reject
from ..ingestion.pipeline import Embedding, Writing
from ..ingestion.preparing import Batch, Pace, Work, compare_with, make_records
from ..ingestion.report import Counts
from ..ingestion.retry import Retry
from ..ingestion.run import max_batch_of
from ..ingestion.store import Store
from ..progress import NoBar


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker needs to know: where the collection is, what embeds for it, and how texts are cut, in tokens.

    `config` None is the collection's own function, as Chroma makes it. `was_empty`: nothing was in the collection when
    the ingest began, so nothing need be looked up.
    """

    server: Server
    collection: str
    was_empty: bool
    config: EmbeddingConfig | None
    passage_tokens: int
    overlap_tokens: int
    retry_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a block."""

    counts: Mapping[str, int]
    rejects: tuple[Reject, ...]


@dataclass(slots=True, kw_only=True)
class _Desk:
    """What a worker opens once."""

    opened: Opened
    store: Store
    cutter: Cutter
    pace: Pace
    cutting: threading.Lock = field(default_factory=threading.Lock)
    embedding: threading.Lock = field(default_factory=threading.Lock)


class Worker:
    """Its methods are called from several threads at once: while one block is written the next is embedded."""

    def __init__(self, assignment: Assignment) -> None:
        """Opens nothing yet: what fails here could not be told in words."""
        self._assignment = assignment
        self._retry = Retry(assignment.retry_seconds, remote=True, wait=threading.Event().wait)
        self._opening = threading.Lock()
        self._desk: _Desk | None = None

    def prepare(self, documents: Sequence[Document]) -> tuple[list[int], list[RecordChanges]]:
        """How many passages each document has, and what each changes. Changes nothing.

        Raises IngestStopped, ConfigError, and what opening the collection raises.
        """
        desk = self._open()
        with desk.cutting:
            records = make_records(documents, desk.cutter)
        store = None if self._assignment.was_empty else desk.store
        return [len(record.passages) for record in records], compare_with(store, records)

    def put(self, changes: Sequence[RecordChanges], own: Sequence[bool]) -> Outcome:
        """Embeds and writes those changes whose ids are the record's `own`.

        Raises IngestStopped, DimensionMismatch, and what the embedding function raises.
        """
        desk, counts, rejects = self._open(), Counts(), list[Reject]()
        embedding = Embedding(desk.opened, retry=self._retry, refuse=rejects.append, pace=desk.pace)
        writing = Writing(desk.store, counts, NoBar())
        for work in _works([each for each, kept in zip(changes, own, strict=True) if kept], desk.pace):
            with desk.embedding:
                embedded = embedding.embed(work)
            writing.write(*embedded)
        return Outcome(counts=counts.to_dict(), rejects=tuple(rejects))

    def _open(self) -> _Desk:
        with self._opening:
            if self._desk is None:
                self._desk = self._retry.call(self._desk_at, server=self._assignment.server)
            return self._desk

    def _desk_at(self, server: Server) -> _Desk:
        assignment = self._assignment
        client = server.open()
        there = find(client, assignment.collection)
        if there is None:
            raise IngestStopped(reason=f"collection {assignment.collection!r} is gone", waited_s=None)
        config, asked = assignment.config or EmbeddingConfig(), assignment.config is not None
        # A worker whose model makes other vectors, as another version of its files would, is refused here.
        # It is a process of its own already.
        opened = open_beside(client, assignment.collection, there, config, asked=asked, beside=False)
        store = Store(opened.chroma, retry=self._retry, max_batch=max_batch_of(opened.chroma, client))
        ruler = opened.maker.ruler()
        cutter = Cutter(ruler.count, size=assignment.passage_tokens, overlap=assignment.overlap_tokens)
        return _Desk(opened=opened, store=store, cutter=cutter, pace=Pace(store.max_batch))


def _works(changes: Sequence[RecordChanges], pace: Pace) -> Iterator[Work]:
    batch = Batch(pace)
    for each in changes:
        yield from batch.add(each)
    yield batch.take()
