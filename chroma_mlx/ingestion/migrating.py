"""A collection's records embedded by another function, into a collection of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..config import ConfigSource
from ..database import find_collection
from ..disk import disk_errors
from ..errors import ConfigError
from ..progress import progress_bar
from .calling import resolved
from .diff import compare_copy
from .opening import MARK, Opened, amend, open_beside
from .passage import Passage, Reject
from .pipeline import Embedding, Writing, run_stages
from .preparing import Batch, Pace, Work
from .rejects import Rejects
from .report import Counts, IngestResult
from .run import make_retry, max_batch_of
from .store import Store

NO_TEXT: Final = "it has no text, only a vector of another model; delete it, or give it a text"


@disk_errors()
def migrate(
    collection: str,
    to: str,
    *,
    client: Any,
    model: str | None = None,
    embedding_function: Any | None = None,
    config: ConfigSource = None,
    rejects: Path | None = None,
    retry_seconds: float = 300.0,
    show_progress: bool | None = None,
) -> IngestResult:
    """Embeds the texts of `collection`, whatever made its vectors, into the collection `to`; the first is only read.

    Ids, texts and metadata are taken over as they are. What is in `to` with the same text and metadata is left,
    so a run that was interrupted goes on, and a second one does nothing. A record without a text is refused.
    `model`, `config` or `embedding_function` say what embeds; without, an existing `to` keeps its own function.

    Raises ConfigError and CollectionMismatch before anything is written, IngestStopped when the database fails,
    DiskFull, CollectionChanged when records of `collection` are removed meanwhile, DimensionMismatch, and what the
    embedding function raises.
    """
    if collection == to:
        raise ConfigError(
            f"The collection {collection!r} cannot be embedded into itself. Give the new one another name."
        )
    plain, asked = resolved(client, model, embedding_function, config)
    old = find_collection(client, collection)
    noted = Rejects(rejects)
    opened = open_beside(client, to, old, plain, asked=asked, function=embedding_function)
    return Migration(opened, old, rejects=noted, retry_seconds=retry_seconds).run(show_progress)


class Migration:
    """The parts of one run, put together."""

    def __init__(self, opened: Opened, old: Any, *, rejects: Rejects, retry_seconds: float) -> None:
        self.opened, self.source, self.rejects = opened, str(old.name), rejects
        self.stop = threading.Event()
        self.retry = make_retry(opened, retry_seconds, wait=self.stop.wait)
        most = max_batch_of(opened.chroma, opened.client)
        self.old = Store(old, retry=self.retry, max_batch=most)
        self.new = Store(opened.chroma, retry=self.retry, max_batch=most)
        self.pace = Pace(self.new.max_batch)
        self.counts, self.read = Counts(), 0

    def run(self, show_progress: bool | None) -> IngestResult:
        """Everything, and what it did."""
        started = time.perf_counter()
        if (self.opened.chroma.metadata or {}).get(MARK):  # else an ingest into it would trust its journal
            self.retry.call(amend, client=self.opened.client, chroma=self.opened.chroma, changes={MARK: ""})
        embedding = Embedding(self.opened, retry=self.retry, refuse=self.rejects.add, pace=self.pace)
        total = self.old.count()
        try:
            with progress_bar(total, show_progress, unit="records") as bar:
                run_stages(self._works(), embedding, Writing(self.new, self.counts, bar), stop=self.stop)
        finally:
            self.rejects.close()
        self.opened.maker.end()
        notes = (
            ()
            if self.read == total == self.old.count()
            else (
                f"Another program wrote to {self.source!r} meanwhile. Run the same again for what it added or edited.",
            )
        )
        return IngestResult(
            collection=self.opened.name,
            failed=self.rejects.count,
            seconds=time.perf_counter() - started,
            replaced=None,
            rejects=tuple(self.rejects.first),
            rejects_file=self.rejects.written,
            notes=notes,
            **self.counts.to_dict(),
        )

    def _works(self) -> Iterator[Work]:
        """What is not in the new collection yet as it is in the old one, a page at a time."""
        batch, was_empty = Batch(self.pace), self.new.count() == 0
        for page in self.old.pages(documents=True):
            self.read += len(page.ids)
            batch.size += len(page.ids)
            there = {} if was_empty else self.new.records(page.ids)
            for id, text, metadata, uri in zip(page.ids, page.documents, page.metadatas, page.uris, strict=True):
                if text is None:
                    self.rejects.add(Reject(source=self.source, id=id, reason=NO_TEXT))
                else:
                    passage = Passage(id=id, text=text, metadata=metadata or {}, uri=uri)
                    yield from batch.add(compare_copy(self.source, passage, there.get(id)))
            if not batch.passages:
                yield batch.take()
        yield batch.take()
