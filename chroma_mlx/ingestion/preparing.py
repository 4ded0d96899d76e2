"""The first stage: documents read, cut into passages, and held against what is stored."""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Iterable, Iterator
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
    """What is embedded and written together: `size` are the bytes of the sources that it is of."""

    parts: tuple[RecordChanges, ...]
    size: int

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
    if format != "parquet":
        return sys.stdin.buffer
    import io

    return io.BytesIO(sys.stdin.buffer.read())  # its index stands at the end


class Preparer:
    """Makes work of documents. One thread at a time."""

    def __init__(self, *, cutter: Cutter, store: Store, seen: Seen, rejects: Rejects, pace: Pace) -> None:
        self._cutter, self._store, self._seen, self._rejects, self._pace = cutter, store, seen, rejects, pace
        # Then nothing that is read can be there, since each id is read once.
        self._empty = store.count() == 0

    def prepare(self, found: Iterable[Document | Reject]) -> Iterator[Work]:
        """The work of all documents, in order; what is refused is noted."""
        waiting: list[RecordChanges] = []
        passages = size = 0
        for block, taken in _blocks(found):
            size += taken
            for changes in self._compare(self._records(block)):
                for part in _split(changes, self._pace.passages):
                    waiting.append(part)
                    passages += len(part.embed) + len(part.relabel)
                    if passages >= self._pace.passages:
                        yield Work(parts=tuple(waiting), size=size)
                        waiting, passages, size = [], 0, 0
            if not passages and waiting:
                yield Work(parts=tuple(waiting), size=size)
                waiting, size = [], 0
        yield Work(parts=tuple(waiting), size=size)

    def _records(self, block: list[Document | Reject]) -> list[Record]:
        """The records of a block. Each id is taken by the first that has it."""
        documents = [each for each in block if isinstance(each, Document)]
        fits = iter(self._cutter.fits([each.text for each in documents]))
        records = []
        self._seen.begin()
        for each in block:
            if isinstance(each, Reject):
                self._refuse(each)
                continue
            record = self._record(each, whole=next(fits))
            ids = [record.id, *(passage.id for passage in record.passages if passage.id != record.id)]
            number = next(iter(each.place.values()), 0)
            other = self._seen.claim(ids, each.source, number)
            if other is None:
                records.append(record)
                self._seen.add_passages(each.source, len(record.passages))
            else:
                where = f"{other[0]}, {other[1]}" if other[1] else other[0]
                reason = f"its id {record.id!r} was that of an earlier record ({where}); give each an id of its own"
                self._rejects.add(
                    Reject(source=each.source, place=each.place, id=record.id, reason=reason, excerpt=each.text)
                )
        self._seen.commit()
        return records

    def _refuse(self, reject: Reject) -> None:
        self._rejects.add(reject)
        if reject.id is None:
            self._seen.hide(reject.source)
        else:
            self._seen.spare(reject.id)

    def _record(self, document: Document, *, whole: bool) -> Record:
        headings = find_headings(document.text) if document.markdown else Headings()
        spans = [Span(0, len(document.text))]
        if not whole:
            spans = self._cutter.cut(document.text, headings, markdown=document.markdown)
        passages = tuple(
            self._passage(document, headings, span, number, len(spans)) for number, span in enumerate(spans, start=1)
        )
        return Record(
            id=document.record_id,
            source=document.source,
            place=document.place,
            passages=passages,
        )

    def _passage(self, document: Document, headings: Headings, span: Span, number: int, passages: int) -> Passage:
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

    def _compare(self, records: list[Record]) -> Iterator[RecordChanges]:
        if self._empty:
            return (compare(record, {}) for record in records)
        ids = list(dict.fromkeys(id for record in records for id in ids_to_look_up(record)))
        stored = self._store.look_up(ids)
        return (compare(record, stored) for record in records)


def _blocks(found: Iterable[Document | Reject]) -> Iterator[tuple[list[Document | Reject], int]]:
    """(documents, bytes of their sources), so many at a time."""
    block: list[Document | Reject] = []
    taken = held = 0
    for each in found:
        block.append(each)
        taken += each.size
        held += len(each.text) if isinstance(each, Document) else 0
        held += each.size
        if len(block) >= DOCUMENTS_A_BLOCK or held >= BYTES_A_BLOCK:
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
