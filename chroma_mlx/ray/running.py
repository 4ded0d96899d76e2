"""`ingest` by workers of Ray's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .. import ingestion
from ..database import Server
from ..errors import ConfigError
from ..ingestion import IngestResult
from .crew import RayCrew


def ingest(
    records: Iterable[Any] | str | os.PathLike[str],
    collection: str,
    *,
    server: Server,
    workers: int = 2,
    address: str | None = None,
    worker_cpus: int | None = None,
    room_seconds: float = 0.0,
    **options: Any,
) -> IngestResult:
    """As chroma_mlx.ingest, into a Chroma server, by so many workers in Ray; `options` are its other arguments.

    `address` is that of a cluster ("auto", "HOST:PORT"); None is one on this machine for the time being, or the one
    that the program is connected to. `worker_cpus` are the cores of a worker: None is its share of this machine's, or
    with an address one. This process reads the records; the workers need this package, and reach the server.
    `room_seconds` is how long a cluster without room for them is waited for, since it may grow.

    Raises MissingPackage without the extra, EngineError when Ray fails, and what chroma_mlx.ingest raises.
    """
    crew = RayCrew(server, workers=workers, address=address, cpus=worker_cpus, room_seconds=room_seconds)
    if not isinstance(collection, str):
        raise ConfigError("The collection is to be given by its name, by which every worker opens it.")
    return ingestion.ingest(records, collection, client=server, crew=crew, **options)
