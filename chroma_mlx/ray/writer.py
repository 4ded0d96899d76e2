"""Batches of Ray Data into a collection of a Chroma server."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..database import Server, read_token
from ..errors import ConfigError, DimensionMismatch, InputError
from ..ingestion.diff import Change
from ..ingestion.opening import find
from ..ingestion.passage import Passage
from ..ingestion.retry import Retry
from ..ingestion.run import max_batch_of
from ..ingestion.store import Store
from ..router.target import space_of
from ..router.vectors import vector_problems
from ..texts import surrogate_problem
from .columns import Columns


class ChromaWriter:
    """For `Dataset.map_batches`: upserts records with the vectors that they have, into a collection that is there.

        two = ray.data.ActorPoolStrategy(size=2)
        ds.map_batches(ChromaWriter, fn_constructor_args=["notes"], fn_constructor_kwargs={"host": "db"}, compute=two)

    What is written twice, as when Ray does a batch again, is there once. As in any upsert of Chroma's, metadata are
    added to those that a record has. A server that goes away is waited for.
    """

    def __init__(
        self,
        collection: str,
        *,
        host: str,
        port: int = 8000,
        ssl: bool = False,
        tenant: str | None = None,
        database: str | None = None,
        token_variable: str | None = None,
        id_column: str = "id",
        text_column: str | None = "text",
        vector_column: str = "embedding",
        metadata_columns: Sequence[str] | None = None,
        retry_seconds: float = 300.0,
    ) -> None:
        """`text_column` None is no text; `metadata_columns` None is every other one.

        `token_variable` is the environment variable, on the worker, of the token. Raises ConfigError where the
        server does not answer, or has no such collection.
        """
        token = None if token_variable is None else read_token(token_variable)
        server = Server(host=host, port=port, ssl=ssl, tenant=tenant, database=database, token=token)
        client = server.open()
        chroma = find(client, collection)
        if chroma is None:
            raise ConfigError(
                f"There is no collection {collection!r} at {host}:{port}. Make it first, with its embedding function."
            )
        self._opened_name, self._space = collection, space_of(chroma)
        self._id, self._text, self._vector = id_column, text_column, vector_column
        self._metadata = None if metadata_columns is None else tuple(metadata_columns)
        self._width: int | None = chroma.get_model()["dimension"]
        retry = Retry(retry_seconds, remote=True, wait=threading.Event().wait)
        self._store = Store(chroma, retry=retry, max_batch=max_batch_of(chroma, client))

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Writes the batch; returns its ids, in the column of that name.

        All of it is checked before anything is written: raises InputError, DimensionMismatch, IngestStopped.
        """
        columns = Columns(batch)
        ids = self._ids(columns[self._id])
        texts = [None] * len(ids) if self._text is None else columns[self._text].tolist()
        own = (self._id, self._text, self._vector)
        names = tuple(name for name in columns.names() if name not in own) if self._metadata is None else self._metadata
        metadata = columns.metadata(names)
        vectors = self._vectors(columns[self._vector], ids)
        changes = [
            Change(Passage(id=id, text=_text(text, id), metadata=each))
            for id, text, each in zip(ids, texts, metadata, strict=True)
        ]
        self._store.put(changes, vectors)
        return {self._id: np.array(ids, dtype=object)}

    def _ids(self, column: npt.NDArray[Any]) -> list[str]:
        ids = [str(id) if isinstance(id, int) and not isinstance(id, bool) else id for id in column.tolist()]
        for row, id in enumerate(ids):
            if not isinstance(id, str) or not id or surrogate_problem(id):
                raise InputError(f"The id of row {row} is {id!r}, which is no text. Nothing of the batch was written.")
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise InputError(f"The id {twice!r} is twice in a batch. Give each record its own. Nothing was written.")
        return ids

    def _vectors(self, column: npt.NDArray[Any], ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors, (n, dimension). Raises InputError and DimensionMismatch."""
        if not ids:
            return np.empty((0, 0), dtype=np.float32)
        rows = [np.asarray(row, dtype=np.float32) for row in column]
        width = rows[0].size
        if self._width is not None and width != self._width:
            raise DimensionMismatch(
                f"Collection {self._opened_name!r} stores {self._width}-d vectors, and these have {width} dimensions. "
                "Embed with the model that made its vectors, or write to another collection.",
                expected=self._width,
                got=width,
            )
        problems = dict(vector_problems(rows, width, self._space, normalized=False))
        for row, reason in problems.items():
            raise InputError(f"Row {row} (id {ids[row]!r}): {reason}. Nothing of the batch was written.")
        return np.stack(rows)


def _text(text: object, id: str) -> Any:
    if text is None or (isinstance(text, str) and not surrogate_problem(text)):
        return text
    raise InputError(f"The text of id {id!r} is a {type(text).__name__} or no UTF-8. Nothing of the batch was written.")
