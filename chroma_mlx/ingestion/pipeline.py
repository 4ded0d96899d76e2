"""Reading, embedding and writing at once: a thread that prepares, the caller's that embeds, one that writes."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import DimensionMismatch, InputError
from ..progress import Bar
from ..router.vectors import vector_problems
from .channel import Channel, ChannelClosed
from .opening import Opened
from .passage import Reject
from .preparing import Pace, Work
from .report import Counts
from .retry import Retry
from .store import Store

# Batches that wait between two stages.
WAITING: Final = 2


class Embedding:
    """The second stage: the vectors of a batch, checked before anything is written."""

    def __init__(self, opened: Opened, *, retry: Retry, refuse: Callable[[Reject], object], pace: Pace) -> None:
        self._opened, self._retry, self._refuse, self._pace = opened, retry, refuse, pace
        self._width: int | None = opened.chroma.get_model()["dimension"]
        self._settled = self._signed = False

    def embed(self, work: Work) -> tuple[Work, npt.NDArray[np.float32]]:
        """The work without the records that cannot be embedded, which are noted, and the vectors of its passages.

        Raises DimensionMismatch where these are not as wide as those stored, and what the function raises.
        """
        if not self._settled and work.embed:
            self._retry.call(self._opened.settle)
            self._settled = True
        while changes := work.embed:
            started = time.perf_counter()
            try:
                vectors = self._retry.call(self._opened.maker.make, texts=[change.passage.text for change in changes])
            except InputError as error:
                if error.index is None:
                    raise
                work = self._without(work, {error.index: str(error)})
                continue
            self._pace.note(len(changes), time.perf_counter() - started)
            problems = self._problems(vectors)
            if not problems:
                if not self._signed:
                    self._retry.call(self._opened.sign)
                    self._signed = True
                return work, vectors
            work = self._without(work, problems)
        return work, np.empty((0, 0), dtype=np.float32)

    def _problems(self, vectors: npt.NDArray[np.float32]) -> dict[int, str]:
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


def run_stages(works: Iterable[Work], embedding: Embedding, writing: Writing, *, stop: threading.Event) -> None:
    """Runs all works through the stages. `stop` is set when one fails, or the caller is interrupted.

    Raises what the stage that failed first raised; the others have ended then.
    """
    prepared, embedded = Channel[Work](WAITING), Channel[tuple[Work, npt.NDArray[np.float32]]](WAITING)
    failures: list[BaseException] = []

    def end(error: BaseException) -> None:
        if not isinstance(error, ChannelClosed):
            failures.append(error)
        stop.set()
        prepared.fail()
        embedded.fail()

    def prepare() -> None:
        for work in works:
            prepared.put(work)
        prepared.end()

    def write() -> None:
        for work, vectors in embedded:
            writing.write(work, vectors)

    threads = [
        threading.Thread(target=_guarded(stage, end), name=f"chroma-mlx-ingest-{stage.__name__}")
        for stage in (prepare, write)
    ]
    for thread in threads:
        thread.start()
    try:
        for work in prepared:
            embedded.put(embedding.embed(work))
        embedded.end()
    except BaseException as error:
        end(error)
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def _guarded(stage: Callable[[], None], end: Callable[[BaseException], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            stage()
        except BaseException as error:
            end(error)

    return run
