"""The first stage: documents read, cut into passages, and held against what is stored."""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from ..texts import surrogate_problem
from .cutting import Cutter, Span
from .diff import Change, RecordChanges, compare, ids_to_look_up
from .headings import Headings, find_headings
from .journal import Journal, sha_of
from .passage import SOURCE, Document, Passage, Record, Reject, make_passage, passage_id
from .readers.formats import FORMATS
from .readers.rows import Columns
from .rejects import Rejects
from .report import Counts
from .seen import Seen
from .sources import File, Sources
from .store import Store

# What is looked up together: documents, and bytes of them.
DOCUMENTS_A_BLOCK: Final = 1_000
BYTES_A_BLOCK: Final = 8 * 2**20
FIRST_PASSAGES: Final = 256
LEAST_PASSAGES: Final = 32
# How long the work of a batch is to take: what a kill can lose.
BATCH_S: Final = 5.0


class Pace:
    """How many passages are a batch: what can be embedded in a few seconds, and the client takes in a call."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.passages = min(FIRST_PASSAGES, most)

    def note(self, passages: int, seconds: float) -> None:
        """A batch of so many took so long."""
        wanted = int(passages / max(seconds, 1e-6) * BATCH_S)
        # At most doubled, since a small batch says little.
        self.passages = max(min(LEAST_PASSAGES, self._most), min(wanted, 2 * self.passages, self._most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is embedded and written together: `size` are the bytes of the sources that it is of.

    `unchanged` are the passages of records that change nothing, which are no part of it.
    """

    parts: tuple[RecordChanges, ...]
    size: int
    unchanged: int = 0

    @property
    def embed(self) -> list[Change]:
        """The passages to embed, in order."""
        return [change for part in self.parts for change in part.embed]


def read_files(
    sources: Sources, columns: Columns, *, journal: Journal | None, seen: Seen, counts: Counts
) -> Iterator[Document | Reject]:
    """The documents of every file. One that the journal knows is not read; where ids may be another file's, all are."""
    for file in sources.files():
        if surrogate_problem(file.name) is not None:
            shown = file.name.encode("utf-8", "replace").decode()
            yield Reject(source=shown, reason="its name has no UTF-8 form; rename it")
            continue
        sha = sha_of(file) if journal is not None else None
        known = journal.passages_of(file.name, sha) if journal is not None and columns.id is None else None
        if known is not None:
            seen.keep(file.name)
            counts.add(unchanged=known)
            continue
        yield from _read_file(file, columns)
        if sha is not None and sha == sha_of(file):  # else it changed while it was read
            seen.add_file(file.name, sha)


def _read_file(file: File, columns: Columns) -> Iterator[Document | Reject]:
    read = FORMATS[file.format].read
    if file.path is None:
        yield from read(_standard_input(file.format), file.name, columns)
        return
    try:
        opened = file.path.open("rb")
    except OSError as error:
        yield Reject(source=file.name, reason=f"it cannot be opened: {error.strerror or error}")
        return
    with opened:
        try:
            yield from read(opened, file.name, columns)
        except OSError as error:
            yield Reject(source=file.name, reason=f"it cannot be read to its end: {error.strerror or error}")


def _standard_input(format: str) -> BinaryIO:
    file: BinaryIO = sys.stdin.buffer
    # Not through Python's own buffer: who waits for a line holds its lock, at which an interrupted Python aborts.
    with contextlib.suppress(OSError):  # it is no file
        file = os.fdopen(file.fileno(), "rb", closefd=False)
    return io.BytesIO(file.read()) if format == "parquet" else file  # the index of Parquet stands at the end


class Batch:
    """Gathers changes until they are a batch's worth of passages; `size` are the bytes of the sources behind them."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._parts: list[RecordChanges] = []
        self.passages = self.size = self._unchanged = 0

    def add(self, changes: RecordChanges) -> Iterator[Work]:
        """Adds a record's changes; gives every batch that this fills."""
        if not (changes.stale or changes.embed or changes.relabel):
            self._unchanged += changes.unchanged  # and not held: these may be most of a large source
            return
        for part in _split(changes, self._pace.passages):
            self._parts.append(part)
            self.passages += len(part.embed) + len(part.relabel)
            if self.passages >= self._pace.passages:
                yield self.take()

    def take(self) -> Work:
        """What has been gathered, which may be nothing."""
        work = Work(parts=tuple(self._parts), size=self.size, unchanged=self._unchanged)
        self._parts, self.passages, self.size, self._unchanged = [], 0, 0, 0
        return work


class Claims:
    """Who has which id: the first that claims it. Notes what is refused. One thread at a time."""

    def __init__(self, seen: Seen, rejects: Rejects) -> None:
        self._seen, self._rejects = seen, rejects

    def take(self, block: Iterable[Document | Reject], passages: Sequence[int]) -> list[bool]:
        """Of each document of the block, which is cut into so many passages, whether its ids are its own."""
        taken, counts = list[bool](), iter(passages)
        self._seen.begin()
        for each in block:
            if isinstance(each, Reject):
                self._refuse(each)
            else:
                taken.append(self._claim(each, next(counts)))
        self._seen.commit()
        return taken

    def _claim(self, document: Document, passages: int) -> bool:
        id = document.record_id
        ids = [id] if passages == 1 else [id, *(passage_id(id, number + 1, passages) for number in range(passages))]
        other = self._seen.claim(ids, document.source, next(iter(document.place.values()), 0))
        if other is None:
            self._seen.add_passages(document.source, passages)
            return True
        where = f"{other[0]}, {other[1]}" if other[1] else other[0]
        reason = f"its id {id!r} was that of an earlier record ({where}); give each an id of its own"
        self._rejects.add(
            Reject(source=document.source, place=document.place, id=id, reason=reason, excerpt=document.text)
        )
        return False

    def _refuse(self, reject: Reject) -> None:
        self._rejects.add(reject)
        if reject.id is None:
            self._seen.hide(reject.source)
        else:
            self._seen.spare(reject.id)


class Preparer:
    """Makes work of documents. One thread at a time."""

    def __init__(self, *, cutter: Cutter, store: Store, claims: Claims, pace: Pace) -> None:
        self._cutter, self._claims, self._pace = cutter, claims, pace
        # Of one that is empty, nothing that is read can be there, since each id is read once.
        self._store = None if store.count() == 0 else store

    def prepare(self, found: Iterable[Document | Reject]) -> Iterator[Work]:
        """The work of all documents, in order; what is refused is noted."""
        batch = Batch(self._pace)
        for block, size in blocks(found, documents=DOCUMENTS_A_BLOCK, size=BYTES_A_BLOCK):
            batch.size += size
            records = make_records([each for each in block if isinstance(each, Document)], self._cutter)
            taken = self._claims.take(block, [len(record.passages) for record in records])
            kept = [record for record, own in zip(records, taken, strict=True) if own]
            for changes in compare_with(self._store, kept):
                yield from batch.add(changes)
            if not batch.passages:
                yield batch.take()
        yield batch.take()


def make_records(documents: Sequence[Document], cutter: Cutter) -> list[Record]:
    """Each document cut into its passages."""
    fits = cutter.fits([document.text for document in documents])
    return [_record(document, cutter, whole=whole) for document, whole in zip(documents, fits, strict=True)]


def _record(document: Document, cutter: Cutter, *, whole: bool) -> Record:
    headings = find_headings(document.text) if document.markdown else Headings()
    spans = [Span(0, len(document.text))]
    if not whole:
        spans = cutter.cut(document.text, headings, markdown=document.markdown)
    passages = tuple(
        _passage(document, headings, span, number, len(spans)) for number, span in enumerate(spans, start=1)
    )
    return Record(id=document.record_id, source=document.source, place=document.place, passages=passages)


def _passage(document: Document, headings: Headings, span: Span, number: int, passages: int) -> Passage:
    # A record that has an id of its own is the same one wherever it stands.
    place = document.place if document.id is None else {}
    metadata = {**document.columns, SOURCE: document.source, **place}
    if passages > 1:
        metadata |= {"passage": number, "passages": passages}
    text = document.text[span.start : span.end]
    heading = headings.at(span.start + len(text) - len(text.lstrip()))
    if heading is not None:
        metadata["heading"] = heading
    if document.pages:
        metadata["page"] = bisect.bisect_right(document.pages, span.start)
    return make_passage(passage_id(document.record_id, number, passages), text, metadata)


def compare_with(store: Store | None, records: Sequence[Record]) -> list[RecordChanges]:
    """What each record changes in the collection; `store` None is one that has nothing of them."""
    if store is None:
        return [compare(record, {}) for record in records]
    ids = list(dict.fromkeys(id for record in records for id in ids_to_look_up(record)))
    stored = store.look_up(ids)
    return [compare(record, stored) for record in records]


def blocks(
    found: Iterable[Document | Reject], *, documents: int, size: int
) -> Iterator[tuple[list[Document | Reject], int]]:
    """(documents, bytes of their sources): at most `documents`, and about `size` bytes of texts and sources, each."""
    block: list[Document | Reject] = []
    taken = held = 0
    for each in found:
        block.append(each)
        taken += each.size
        held += len(each.text) if isinstance(each, Document) else 0
        held += each.size
        if len(block) >= documents or held >= size:
            yield block, taken
            block, taken, held = [], 0, 0
    yield block, taken


def _split(changes: RecordChanges, most: int) -> Iterator[RecordChanges]:
    """A record's changes in parts; the first has what is deleted and relabelled, which comes before all else."""
    if len(changes.embed) <= most:
        yield changes
        return
    parts = [changes.embed[start : start + most] for start in range(0, len(changes.embed), most)]
    yield RecordChanges(
        record=changes.record,
        stale=changes.stale,
        embed=parts[0],
        relabel=changes.relabel,
        unchanged=changes.unchanged,
    )
    for part in itertools.islice(parts, 1, None):
        yield RecordChanges(record=changes.record, embed=part)
