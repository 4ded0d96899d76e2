"""Several workers do the work of an ingest; this process reads, and says whose each id is."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..database import Server
from ..errors import ConfigError
from ..ingestion.making import config_behind
from ..ingestion.passage import Document, Reject
from ..ingestion.preparing import Claims, blocks
from ..ingestion.run import Ingest
from ..progress import Bar
from ..rules import COUNT, SECONDS, optional, refusals
from .cluster import check_ray, cluster, cores, ray_errors, wait_for_room
from .worker import Assignment, Outcome, Worker

# What a worker does at once, and what is lost when it dies: less than an ingest in one process looks up together.
DOCUMENTS_A_BLOCK: Final = 250
BYTES_A_BLOCK: Final = 2 * 2**20
# Of a worker: one block is embedded, while another is written and others are cut ahead.
PUTS: Final = 2
AHEAD: Final = 2
# A block at which a worker died so often more ends the ingest.
TRIES: Final = 4


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A block that is being prepared: its bytes, and Ray's references to the two things that `prepare` returns."""

    block: Sequence[Document | Reject]
    size: int
    passages: Any
    changes: Any


class RayCrew:
    """A Crew of workers in a cluster of Ray's."""

    def __init__(
        self,
        server: Server,
        *,
        workers: int,
        address: str | None = None,
        cpus: int | None = None,
        room_seconds: float = 0.0,
    ) -> None:
        """`cpus` are the cores of a worker: as many threads multiply; None is its share of this machine's, or with
        an `address` one. A cluster that has no room for the workers has `room_seconds` to grow.

        Raises ConfigError, and MissingPackage without the extra.
        """
        values = {"workers": workers, "worker_cpus": cpus, "room_seconds": room_seconds}
        rules = {"workers": COUNT, "worker_cpus": optional(COUNT), "room_seconds": SECONDS}
        if found := refusals(values, rules):
            raise ConfigError(found[0][1])
        check_ray()
        self._server, self._workers, self._address, self._room_s = server, workers, address, room_seconds
        self._cpus = cpus or (max(1, cores() // workers) if address is None else 1)

    def work(self, ingest: Ingest, documents: Iterator[Document | Reject], claims: Claims, bar: Bar) -> None:
        """See Crew. Raises what a worker raises, and EngineError when Ray fails or has no room for the workers."""
        assignment = Assignment(
            server=self._server,
            collection=str(ingest.opened.chroma.name),
            was_empty=ingest.store.count() == 0,
            config=config_behind(ingest.opened.maker),
            passage_tokens=ingest.cutter.size,
            overlap_tokens=ingest.cutter.overlap,
            retry_seconds=ingest.options.retry_seconds,
        )
        with cluster(self._address, workers=self._workers, cpus=self._cpus) as ray, ray_errors(ray):
            actor = ray.remote(Worker).options(
                num_cpus=self._cpus,
                max_concurrency=PUTS + AHEAD,
                max_restarts=-1,
                max_task_retries=TRIES,
            )
            workers = [actor.remote(assignment) for _ in range(self._workers)]
            try:
                wait_for_room(ray.nodes, workers=self._workers, cpus=self._cpus, limit_s=self._room_s)
                for size, outcome in _outcomes(ray, workers, documents, claims):
                    ingest.counts.add(**outcome.counts)
                    for reject in outcome.rejects:
                        ingest.rejects.add(reject)
                    bar.update(size)
            finally:
                for worker in workers:
                    ray.kill(worker)


def _outcomes(
    ray: Any, workers: Sequence[Any], documents: Iterable[Document | Reject], claims: Claims
) -> Iterator[tuple[int, Outcome]]:
    """(bytes of the sources, outcome) of each block, as they come.

    Blocks are prepared ahead, by whichever worker; ids are claimed in the order of the sources, whoever is quicker,
    so that the first record of an id is the first one in the sources.
    """
    given = blocks(documents, documents=DOCUMENTS_A_BLOCK, size=BYTES_A_BLOCK)
    preparers = itertools.cycle(workers)
    free = deque(worker for _ in range(PUTS) for worker in workers)
    ahead, running = deque[_Ahead](), dict[Any, tuple[Any, int]]()
    while True:
        while len(ahead) < AHEAD * len(workers) and (found := next(given, None)) is not None:
            block, size = found
            found_documents = [each for each in block if isinstance(each, Document)]
            prepare = next(preparers).prepare.options(num_returns=2)
            ahead.append(_Ahead(block, size, *prepare.remote(found_documents)))
        if ahead and free:
            first, worker = ahead.popleft(), free.popleft()
            own = claims.take(first.block, ray.get(first.passages))
            running[worker.put.remote(first.changes, own)] = worker, first.size
        elif running:
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                worker, size = running.pop(reference)
                free.append(worker)
                yield size, ray.get(reference)
        else:
            return
