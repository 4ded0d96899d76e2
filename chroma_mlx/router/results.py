"""The results of a query: typed, easy to print and to turn into rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

SNIPPET_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hit:
    """A record that was found. `distance` is Chroma's, in the collection's space; smaller is nearer.

    `similarity` is 1 − distance in a cosine or ip space (1 is the same direction), None in l2. `vector` is
    float32 (dimension,), if it was asked for.
    """

    id: str
    distance: float
    similarity: float | None
    text: str | None
    metadata: Mapping[str, Any]
    uri: str | None
    vector: npt.NDArray[np.float32] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row: plain values by name, the vector left out where it was not asked for."""
        row = {name: getattr(self, name) for name in ("id", "distance", "similarity", "text", "metadata", "uri")}
        row["metadata"] = dict(self.metadata)
        return row if self.vector is None else {**row, "vector": self.vector}


@dataclass(frozen=True, slots=True, eq=False)
class Hits(Sequence[Hit]):
    """What a query found, best first: a sequence of Hit that prints as a table."""

    hits: tuple[Hit, ...]

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @property
    def ids(self) -> list[str]:
        """The ids, best first."""
        return [hit.id for hit in self.hits]

    def rows(self) -> list[dict[str, Any]]:
        """A dict a hit, as a data frame takes them."""
        return [hit.to_dict() for hit in self.hits]

    def __str__(self) -> str:
        if not self.hits:
            return "nothing found"
        width = max(len(hit.id) for hit in self.hits)
        return "\n".join(f"{_nearness(hit)}  {hit.id:<{width}}  {_snippet(hit)}" for hit in self.hits)


def _nearness(hit: Hit) -> str:
    """The similarity; in an l2 space, which has none, the distance, named so."""
    return f"distance {hit.distance:.4f}" if hit.similarity is None else f"{hit.similarity:7.4f}"


def _snippet(hit: Hit) -> str:
    shown = " ".join((hit.text if hit.text is not None else hit.uri or "").split())
    # By characters: there are languages without spaces.
    return shown if len(shown) <= SNIPPET_CHARACTERS else f"{shown[: SNIPPET_CHARACTERS - 2].rstrip()} …"


def read_results(found: Mapping[str, Any], space: str) -> list[Hits]:
    """Chroma's columns of each query as Hits."""
    results = []
    for query, ids in enumerate(found["ids"]):

        def column(name: str, query: int = query, length: int = len(ids)) -> Sequence[Any]:
            values = found.get(name)
            return [None] * length if values is None else values[query]

        rows = zip(
            ids,
            column("distances"),
            column("documents"),
            column("metadatas"),
            column("uris"),
            column("embeddings"),
            strict=True,
        )
        results.append(
            Hits(
                tuple(
                    Hit(
                        id=id,
                        distance=float(distance),
                        similarity=None if space == "l2" else 1.0 - float(distance),
                        text=text,
                        metadata=metadata or {},
                        uri=uri,
                        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
                    )
                    for id, distance, text, metadata, uri, vector in rows
                )
            )
        )
    return results
