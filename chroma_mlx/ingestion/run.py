"""One ingest from beginning to end."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from ..disk import folder_of
from ..errors import ConfigError
from ..progress import Bar, byte_bar
from ..rules import COUNT, SECONDS, optional, refusals
from .cutting import Cutter
from .finishing import carry_over, delete_gone
from .journal import Journal, sha_of
from .making import Maker
from .opening import MARK, Opened, amend, metadata_now, switch
from .passage import Document, Reject
from .pipeline import Embedding, Reading, Writing, run_stages
from .preparing import Claims, Pace, Preparer, read_files
from .readers.rows import Columns
from .rejects import Rejects
from .report import Counts, IngestResult
from .retry import Retry
from .seen import Seen
from .sources import Sources, read_items
from .store import Store

PASSAGE_TOKENS: Final = 512
# Of a passage, what it shares with the one before.
OVERLAP: Final = 1 / 8
# A change of how files become passages gets a new number, so that no journal hides it.
VERSION: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an ingest is done; see `ingest`."""

    columns: Columns = field(default_factory=Columns)
    source: str = "records"
    passage_tokens: int | None = None
    overlap_tokens: int | None = None
    sync: bool = False
    recheck: bool = False
    rejects: Path | None = None
    retry_seconds: float = 300.0
    show_progress: bool | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that is not allowed."""
        counts = {"passage_tokens": self.passage_tokens}
        found = refusals(counts, dict.fromkeys(counts, optional(COUNT)))
        found += refusals({"retry_seconds": self.retry_seconds}, {"retry_seconds": SECONDS})
        if found:
            raise ConfigError(found[0][1])


class Crew(Protocol):
    """Others who cut, embed and write the documents of an ingest."""

    def work(self, ingest: Ingest, documents: Iterator[Document | Reject], claims: Claims, bar: Bar) -> None:
        """Puts all documents into the ingest's collection, and what was done into its counts and rejects."""


class Ingest:
    """The parts of one run, put together."""

    def __init__(
        self,
        given: Sources | Iterable[Any],
        opened: Opened,
        options: Options,
        *,
        cutter: Cutter,
        rejects: Rejects,
        crew: Crew | None = None,
    ) -> None:
        self.given, self.opened, self.options, self.crew = given, opened, options, crew
        self.cutter, self.rejects = cutter, rejects
        self.stop = threading.Event()
        client = opened.client
        self.retry = make_retry(opened, options.retry_seconds, wait=self.stop.wait)
        self.store = Store(opened.chroma, retry=self.retry, max_batch=max_batch_of(opened.chroma, client))
        self.counts, self.pace = Counts(), Pace(self.store.max_batch)
        self.notes: list[str] = []

    def run(self) -> IngestResult:
        """Everything, and what it did. Raises what `ingest` raises."""
        started = time.perf_counter()
        journal = self._journal()
        if journal is not None and (unchanged := self._nothing_changed(journal)) is not None:
            self.counts.add(unchanged=unchanged)
            return self._result(started, None)
        try:
            with Seen() as seen:
                self._mark("")
                if journal is not None:
                    journal.forget()
                embedding = Embedding(self.opened, retry=self.retry, refuse=self.rejects.add, pace=self.pace)
                self._stages(seen, journal, embedding)
                replaced = self._finish(seen, embedding)
                self._keep(seen, journal)
        finally:
            self.rejects.close()
        self.opened.maker.end()
        return self._result(started, replaced)

    def _stages(self, seen: Seen, journal: Journal | None, embedding: Embedding) -> None:
        total = self.given.bytes() if isinstance(self.given, Sources) else None
        claims, documents = Claims(seen, self.rejects), self._documents(seen, journal)
        with byte_bar(total, self.options.show_progress) as bar:
            if self.crew is not None:
                self.crew.work(self, documents, claims, bar)
                return
            preparer = Preparer(cutter=self.cutter, store=self.store, claims=claims, pace=self.pace)
            reading, writing = Reading(documents, stop=self.stop), Writing(self.store, self.counts, bar)
            run_stages(preparer.prepare(reading), embedding, writing, stop=self.stop, reading=reading)

    def _documents(self, seen: Seen, journal: Journal | None) -> Iterator[Document | Reject]:
        columns = self.options.columns
        if not isinstance(self.given, Sources):
            return read_items(self.given, self.options.source, columns)
        return read_files(self.given, columns, journal=journal, seen=seen, counts=self.counts)

    def _finish(self, seen: Seen, embedding: Embedding) -> str | None:
        """Deletes what is gone, and puts a new collection in the place of the old one; returns that one's new name."""
        scope: Sources | str = self.given if isinstance(self.given, Sources) else self.options.source
        if self.options.sync:
            delete_gone(self.store, scope=scope, seen=seen, counts=self.counts)
            self.notes += [
                f"Nothing of {source} was deleted: something in it could not be read, and may be any of its records."
                for source in seen.hidden()
            ]
        if self.opened.old is None:
            return None
        old = Store(self.opened.old, retry=self.retry, max_batch=self.store.max_batch)
        carry_over(
            old,
            self.store,
            embedding=embedding,
            scope=scope if self.options.sync else None,
            seen=seen,
            counts=self.counts,
        )
        replaced = self.retry.call(switch, opened=self.opened)
        self.notes.append(
            f"The model is another, so all was embedded anew. The collection as it was is kept as {replaced!r}; delete "
            "it when you need it no more."
        )
        if self.rejects.count:
            self.notes.append(f"Something was refused: what the model cannot take is in {replaced!r} alone.")
        return replaced

    def _journal(self) -> Journal | None:
        """None where it could be of no use, or is not to be used."""
        if self.opened.client is None or not isinstance(self.given, Sources) or "-" in self.given.named:
            return None
        fresh = self.retry.call(metadata_now, client=self.opened.client, chroma=self.opened.chroma)
        mark = "" if self.options.recheck else str(fresh.get(MARK) or "")
        return Journal(str(self.opened.chroma.id), self._digest(), mark=mark, count=self.store.count())

    def _digest(self) -> str:
        """Of all that decides what a file becomes; with `sync` also of what is read, since the rest was deleted."""
        options, given = self.options, self.given
        found = [VERSION, options.columns.text, options.columns.id, self.cutter.size, self.cutter.overlap]
        if isinstance(given, Sources):
            found += [given.format, str(given.base)]
            found += [list(given.named), list(given.globs)] if options.sync else []
        return hashlib.sha256(json.dumps([*found, options.sync]).encode()).hexdigest()

    def _nothing_changed(self, journal: Journal) -> int | None:
        """How many passages all files have, if each is as it was, and none that was there is missing; else None."""
        if not journal.known or not isinstance(self.given, Sources) or self.opened.old is not None:
            return None
        total, files = 0, 0
        for file in self.given.files():
            passages = journal.passages_of(file.name, sha_of(file))
            if passages is None:
                return None
            total, files = total + passages, files + 1
        if self.options.sync and files < sum(map(self.given.covers, journal.known)):
            return None
        return total

    def _keep(self, seen: Seen, journal: Journal | None) -> None:
        if self.opened.client is None:
            return
        mark = uuid.uuid4().hex
        self._mark(mark)
        if journal is not None:
            # The last row of a source holds: what has rejects is read again, which says so again.
            files = itertools.chain(seen.files(), ((source, "", 0) for source in self.rejects.sources))
            alone = self.options.columns.id is not None
            gone = self._gone(seen, journal) if self.options.sync else []
            journal.keep(files, gone=gone, mark=mark, count=self.store.count(), alone=alone)

    def _gone(self, seen: Seen, journal: Journal) -> list[str]:
        """The files that the journal knows and that are not there any more, whose records were deleted."""
        read = {source for source, _, _ in seen.files()}
        return [
            source
            for source in journal.known
            if isinstance(self.given, Sources)
            and self.given.covers(source)
            and source not in read
            and not seen.protects(source)
        ]

    def _mark(self, mark: str) -> None:
        """Leaves a mark in the collection, which no other ingest leaves; "" while one is under way."""
        opened = self.opened
        fresh = self.retry.call(metadata_now, client=opened.client, chroma=opened.chroma)
        if mark or fresh.get(MARK):
            self.retry.call(amend, client=opened.client, chroma=opened.chroma, changes={MARK: mark})

    def _result(self, started: float, replaced: str | None) -> IngestResult:
        return IngestResult(
            collection=self.opened.name,
            failed=self.rejects.count,
            seconds=time.perf_counter() - started,
            replaced=replaced,
            rejects=tuple(self.rejects.first),
            rejects_file=self.rejects.written,
            notes=tuple(self.notes),
            **self.counts.to_dict(),
        )


def make_cutter(maker: Maker, options: Options) -> Cutter:
    """Raises ConfigError for passages that are longer than the model takes, or an overlap beyond half of them."""
    ruler = maker.ruler()
    size = options.passage_tokens or min(PASSAGE_TOKENS, ruler.most or PASSAGE_TOKENS // 2)
    if ruler.most is not None and size > ruler.most:
        raise ConfigError(
            f"Passages of {size} tokens are longer than the model takes: {ruler.most} beside its special tokens and "
            "its instruction. Set fewer, or leave it out."
        )
    overlap = int(size * OVERLAP) if options.overlap_tokens is None else options.overlap_tokens
    return Cutter(ruler.count, size=size, overlap=overlap)


def make_retry(opened: Opened, limit_s: float, *, wait: Callable[[float], bool]) -> Retry:
    """That of the calls of a collection, which is a server's or in a folder."""
    client = opened.client or getattr(opened.chroma, "_client", None)
    stated = getattr(client, "get_settings", None)
    remote = stated is not None and "fastapi" in str(stated().chroma_api_impl)
    return Retry(limit_s, remote=remote, wait=wait, folder=folder_of(client))


def max_batch_of(chroma: Any, client: Any | None) -> int | None:
    """The most records that the client takes in a call, where it says so."""
    stated = getattr(client or getattr(chroma, "_client", None), "get_max_batch_size", None)
    return None if stated is None else int(stated())
