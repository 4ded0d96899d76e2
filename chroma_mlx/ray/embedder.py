"""Batches of Ray Data get a column of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.plan import Kind
from ..functions import MLXEmbeddingFunction
from ..texts import check_kind
from .columns import Columns


class Embedder:
    """For `Dataset.map_batches`: adds the vectors of a column of texts. Every worker loads the model, once.

        two = ray.data.ActorPoolStrategy(size=2)
        ds.map_batches(Embedder, fn_constructor_kwargs={"model_name": "builtin"}, compute=two, num_cpus=1)

    A worker multiplies with as many threads as Ray gives it cores (`num_cpus`).
    """

    def __init__(
        self,
        *,
        text_column: str = "text",
        vector_column: str = "embedding",
        kind: Kind = "document",
        **settings: Any,
    ) -> None:
        """`kind` is "document" or "query"; `settings` are the arguments of MLXEmbeddingFunction, `config` among them.

        Raises ConfigError.
        """
        check_kind(kind)
        self._text_column, self._vector_column, self._kind = text_column, vector_column, kind
        self._function = MLXEmbeddingFunction(**{"show_progress": False, **settings})

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The batch with the vectors of its texts, (n, dimension) float32. Raises InputError, and what embedding does.

        Nothing of a batch is returned unless every text of it has a vector.
        """
        texts = Columns(batch)[self._text_column].tolist()
        vectors = self._function.encode(texts, self._kind) if texts else np.empty((0, 0), dtype=np.float32)
        return {**batch, self._vector_column: vectors}
