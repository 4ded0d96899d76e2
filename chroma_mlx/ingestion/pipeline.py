"""Reading, embedding and writing at once: a thread that prepares, the caller's that embeds, one that writes.

Where the engine's process embeds, the caller's thread only hands it the texts, some batches ahead: the thread that
writes, which stops this process's Python for as long as Chroma writes, waits for their vectors.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import DimensionMismatch, EngineError, InputError
from ..progress import Bar
from ..router.vectors import vector_problems
from .channel import Channel, ChannelClosed
from .opening import Opened
from .passage import Reject
from .preparing import Pace, Work
from .report import Counts
from .retry import Retry
from .store import Store

if TYPE_CHECKING:
    from ..engine.request import Embedded

# Batches that wait between two stages.
WAITING: Final = 2
# How long a run that fails or is interrupted waits for whoever reads: a pipe or a generator may give nothing for ever.
READER_LEFT_S: Final = 2.0
T = TypeVar("T")
# What is left of a batch, and the vectors of its passages, (n, dimension).
Ready = tuple[Work, npt.NDArray[np.float32]]


class Embedding:
    """The second stage: the vectors of a batch, checked before anything is written."""

    def __init__(self, opened: Opened, *, retry: Retry, refuse: Callable[[Reject], object], pace: Pace) -> None:
        self._opened, self._retry, self._refuse, self._pace = opened, retry, refuse, pace
        self._width: int | None = opened.chroma.get_model()["dimension"]
        self._settled = self._signed = False
        self._dropped = False
        self._free_since = 0.0  # when the last texts had their vectors

    def embed(self, work: Work) -> Ready:
        """The work without the records that cannot be embedded, which are noted, and the vectors of its passages.

        Raises DimensionMismatch where these are not as wide as those stored, and what the function raises.
        """
        self._settle(work)
        return self._finish(work, None)

    def begin(self, work: Work) -> Callable[[], Ready]:
        """What gives the same when it is called: begun elsewhere, where the maker can do that, else done now."""
        self._settle(work)
        begun = time.perf_counter()
        elsewhere = self._opened.maker.begin(_texts(work)) if work.embed else None
        if elsewhere is None:
            ready = self._finish(work, None)
            return lambda: ready
        elsewhere.add_done_callback(lambda _: self._note(len(work.embed), begun))
        return lambda: self._finish(work, elsewhere)

    def drop(self) -> None:
        """Nobody wants any more what was begun."""
        self._dropped = True
        self._opened.maker.drop()

    def _settle(self, work: Work) -> None:
        if not self._settled and work.embed:
            self._retry.call(self._opened.settle)
            self._settled = True

    def _note(self, passages: int, begun: float) -> None:
        """Passages that were begun then have their vectors now."""
        begun, self._free_since = max(begun, self._free_since), time.perf_counter()
        self._pace.note(passages, self._free_since - begun)

    def _finish(self, work: Work, begun: Future[Embedded] | None) -> Ready:
        """`begun`: the vectors of the whole work, where they are being made elsewhere."""
        places, vectors, refused = self._made(_texts(work), begun)
        refused |= {places[row]: reason for row, reason in self._problems(vectors).items()}
        if refused:
            records = [part.record.id for part in work.parts for _ in part.embed]
            gone = {records[place] for place in refused}
            vectors = vectors[[row for row, place in enumerate(places) if records[place] not in gone]]
            work = self._without(work, refused)
        if work.embed and not self._signed:
            self._retry.call(self._opened.sign)
            self._signed = True
        return work, vectors

    def _made(
        self, texts: list[str], begun: Future[Embedded] | None
    ) -> tuple[list[int], npt.NDArray[np.float32], dict[int, str]]:
        """The places of the texts that can be embedded, their vectors, and by place why others cannot.

        Those before one that is refused are embedded by themselves, and then those behind it: each twice at most,
        however many are refused.
        """
        left, made, refused = [slice(0, len(texts))], list[tuple[slice, npt.NDArray[np.float32]]](), dict[int, str]()
        while left:
            part = left.pop()
            if part.start == part.stop:
                continue
            elsewhere, begun = begun, None
            try:
                made.append((part, self._vectors(texts[part], elsewhere)))
            except InputError as error:
                if error.index is None:
                    raise
                place = part.start + error.index
                refused[place] = str(error)
                left += [slice(place + 1, part.stop), slice(part.start, place)]  # the first part is taken first
        places = [place for part, _ in made for place in range(part.start, part.stop)]
        parts = [vectors for _, vectors in made] or [np.empty((0, 0), dtype=np.float32)]
        return places, parts[0] if len(parts) == 1 else np.concatenate(parts), refused

    def _vectors(self, texts: list[str], begun: Future[Embedded] | None) -> npt.NDArray[np.float32]:
        if begun is not None:
            try:
                return begun.result().vectors
            except CancelledError as error:
                raise ChannelClosed("The vectors are not wanted any more.") from error
            except EngineError:  # of a process that died, too: the next try starts another
                if self._dropped:
                    raise
        started = time.perf_counter()
        vectors = self._retry.call(self._opened.maker.make, texts=texts)
        self._note(len(texts), started)
        return vectors

    def _problems(self, vectors: npt.NDArray[np.float32]) -> dict[int, str]:
        """What is wrong with vectors, by their rows. Raises DimensionMismatch."""
        if not len(vectors):
            return {}
        width = vectors.shape[1]
        if self._width is not None and width != self._width:
            raise DimensionMismatch(
                f"Collection {self._opened.name!r} stores {self._width}-d vectors, but {self._opened.maker.name} makes "
                f"{width}-d ones. Use another collection, or name the model that made its vectors.",
                expected=self._width,
                got=width,
            )
        self._width = width
        normalized = self._opened.maker.normalized
        return dict(vector_problems(list(vectors), width, self._opened.space, normalized=normalized))

    def _without(self, work: Work, problems: dict[int, str]) -> Work:
        """The work without the records of the passages at these places, each a reject: what is stored of them stays."""
        places = [part for part in work.parts for _ in part.embed]
        refused: dict[str, str] = {}
        for place, reason in problems.items():
            refused.setdefault(places[place].record.id, reason)
        for part in work.parts:
            record = part.record
            if record.id in refused and part.embed:
                text = part.embed[0].passage.text
                self._refuse(
                    Reject(
                        source=record.source, place=record.place, id=record.id, reason=refused[record.id], excerpt=text
                    )
                )
        return dataclasses.replace(work, parts=tuple(part for part in work.parts if part.record.id not in refused))


def _texts(work: Work) -> list[str]:
    return [change.passage.text for change in work.embed]


class Writing:
    """The third stage: what is gone is deleted, then metadata, then vectors are written."""

    def __init__(self, store: Store, counts: Counts, bar: Bar) -> None:
        self._store, self._counts, self._bar = store, counts, bar
        self._started, self._written = time.perf_counter(), 0

    def write(self, work: Work, vectors: npt.NDArray[np.float32]) -> None:
        """Writes a batch. Raises IngestStopped."""
        stale = [id for part in work.parts for id in part.stale]
        relabel = [change for part in work.parts for change in part.relabel]
        embed = work.embed
        self._counts.add(deleted=self._store.delete(stale))
        self._store.relabel(relabel)
        self._counts.add(updated=len(relabel))
        self._store.put(embed, vectors)
        known = sum(change.known for change in embed)
        unchanged = work.unchanged + sum(part.unchanged for part in work.parts)
        self._counts.add(added=len(embed) - known, updated=known, embedded=len(embed), unchanged=unchanged)
        self._written += len(embed) + len(relabel) + unchanged
        rate = self._written / max(time.perf_counter() - self._started, 1e-6)
        self._bar.update(work.size)
        self._bar.set_postfix_str(f"{self._written:,} passages, {rate:,.0f}/s")


class Reading(Generic[T]):
    """What is read, until `stop` is set: a block of records may take its source a long time.

    `waiting` says that the source has been asked for the next one, and gave none yet.
    """

    def __init__(self, items: Iterable[T], *, stop: threading.Event) -> None:
        self._items, self._stop = iter(items), stop
        self.waiting = False

    def __iter__(self) -> Iterator[T]:
        """Raises ChannelClosed once the run has ended."""
        while not self._stop.is_set():
            self.waiting = True
            try:
                item = next(self._items)
            except StopIteration:
                return
            finally:
                self.waiting = False
            yield item
        raise ChannelClosed("The run has ended.")


def run_stages(
    works: Iterable[Work],
    embedding: Embedding,
    writing: Writing,
    *,
    stop: threading.Event,
    reading: Reading[Any] | None = None,
) -> None:
    """Runs all works through the stages. `stop` is set when one fails, or the caller is interrupted.

    Raises what the stage that failed first raised; the others have ended then, unless `reading`, which the works are
    made of, still waits for its source: its thread ends with the next record.
    """
    prepared, embedded = Channel[Work](WAITING), Channel[Callable[[], Ready]](WAITING)
    failures: list[BaseException] = []

    def end(error: BaseException) -> None:
        if not isinstance(error, ChannelClosed):
            failures.append(error)
        stop.set()
        prepared.fail()
        embedded.fail()
        embedding.drop()

    def prepare() -> None:
        for work in works:
            prepared.put(work)
        prepared.end()

    def write() -> None:
        for vectors_of in embedded:
            writing.write(*vectors_of())

    # Python does not wait at its end for a daemon.
    reader = threading.Thread(target=_guarded(prepare, end), name="chroma-mlx-ingest-prepare", daemon=True)
    writer = threading.Thread(target=_guarded(write, end), name="chroma-mlx-ingest-write")
    for thread in (reader, writer):
        thread.start()
    try:
        for work in prepared:
            embedded.put(embedding.begin(work))
        embedded.end()
    except BaseException as error:
        end(error)
    finally:
        writer.join()
        reader.join(READER_LEFT_S if stop.is_set() else None)
        while reader.is_alive() and not (reading is not None and reading.waiting):
            reader.join(READER_LEFT_S)
    if failures:
        raise failures[0]


def _guarded(stage: Callable[[], None], end: Callable[[BaseException], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            stage()
        except BaseException as error:
            end(error)

    return run
