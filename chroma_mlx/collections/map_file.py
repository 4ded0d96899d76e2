"""A collection as Embedding Atlas takes it: a column for each metadata key, vectors, and who is near whom."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..pages import Page, page_records, read_pages, take
from ..progress import progress_bar
from .parquet import need_pyarrow
from .whole_file import whole_file

if TYPE_CHECKING:
    import pyarrow as pa
    from chromadb.api.models.Collection import Collection

ID: Final = "id"
TEXT: Final = "document"
URI: Final = "uri"
VECTOR: Final = "vector"
NEIGHBOURS: Final = "neighbors"
# FILE_NAME is one that the tool adds itself.
OWN: Final = (ID, TEXT, URI, VECTOR, NEIGHBOURS, "FILE_NAME")
# As many as UMAP looks at unless it is told otherwise; the record itself is the first of them.
NEAREST: Final = 15


@dataclass(slots=True)
class Contents:
    """What a map has, found in a first pass: each record's row, the kinds of metadata by key, and what else is used."""

    rows: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, set[type]] = field(default_factory=dict)
    has_text: bool = False
    has_uri: bool = False

    def add(self, page: Page) -> None:
        """Takes in a page."""
        for id in page.ids:
            self.rows.setdefault(id, len(self.rows))
        for metadata in page.metadatas:
            for key, value in (metadata or {}).items():
                self.kinds.setdefault(key, set()).add(type(value))
        self.has_text |= any(text is not None for text in page.documents)
        self.has_uri |= any(uri is not None for uri in page.uris)


def sampled(count: int, limit: int) -> frozenset[int]:
    """At most `limit` places of `count`, evenly spread."""
    return frozenset(np.linspace(0, count - 1, min(count, limit), dtype=np.int64).tolist())


def write_map(collection: Collection, path: Path, *, limit: int) -> Contents:
    """Writes the map's file: at most `limit` records, spread over the collection. Returns what is in it.

    Memory is bounded by a page of records, and the ids. Raises CollectionChanged and MissingPackage.
    """
    need_pyarrow()
    import pyarrow.parquet as pq

    count, contents = collection.count(), Contents()
    chosen = sampled(count, limit) if count > limit else None
    place = 0
    for page in read_pages(collection, vectors=False):
        contents.add(_chosen(page, place, chosen))
        place += len(page)
    dimension = int(collection.get_model()["dimension"] or 0)
    names = column_names(contents.kinds)
    schema = _schema(contents, names, dimension)
    with (
        whole_file(path) as file,
        pq.ParquetWriter(file, schema) as writer,
        progress_bar(place, None, unit="records", task="Mapping") as bar,
    ):
        place = 0
        for page in read_pages(collection, size=page_records(dimension)):
            part = _chosen(page, place, chosen)
            # A record that came after the first pass has no row.
            part = take(part, [index for index, id in enumerate(part.ids) if id in contents.rows])
            if len(part):
                near = _neighbours(collection, part, contents.rows)
                writer.write_batch(_batch(part, near, contents, names, schema))
            place += len(page)
            bar.update(len(page))
    return contents


def column_names(keys: Iterable[str]) -> dict[str, str]:
    """A column's name for each metadata key, none twice: for a database the case of letters is no difference."""
    taken = {name.lower() for name in OWN}
    names = {}
    for key in sorted(keys):
        name = key
        while name.lower() in taken:
            name = f"{name}_metadata" if name == key else f"{name}_"
        taken.add(name.lower())
        names[key] = name
    return names


def _chosen(page: Page, start: int, chosen: frozenset[int] | None) -> Page:
    """Those of a page's records, the first of which is number `start`, that the sample has."""
    if chosen is None:
        return page
    return take(page, [place for place in range(len(page)) if start + place in chosen])


def _schema(contents: Contents, names: Mapping[str, str], dimension: int) -> pa.Schema:
    import pyarrow as pa

    near = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
    return pa.schema(
        [
            pa.field(ID, pa.string()),
            *([pa.field(TEXT, pa.string())] if contents.has_text else []),
            *([pa.field(URI, pa.string())] if contents.has_uri else []),
            *(pa.field(name, _type(contents.kinds[key])) for key, name in names.items()),
            pa.field(VECTOR, pa.list_(pa.float32(), dimension)),
            pa.field(NEIGHBOURS, near),
        ]
    )


def _type(kinds: set[type]) -> pa.DataType:
    """A column's type: text for lists, and where values are of several kinds."""
    import pyarrow as pa

    types: dict[frozenset[type], pa.DataType] = {
        frozenset({bool}): pa.bool_(),
        frozenset({int}): pa.int64(),
        frozenset({float}): pa.float64(),
        frozenset({int, float}): pa.float64(),
    }
    return types.get(frozenset(kinds), pa.string())


def _neighbours(collection: Collection, page: Page, rows: Mapping[str, int]) -> list[dict[str, list[Any]]]:
    """Of each record those nearest to it, by Chroma's own index: their rows and distances, best first."""
    queries: Any = list(page.embeddings)
    found = collection.query(query_embeddings=queries, n_results=min(NEAREST, len(rows)), include=["distances"])
    near: list[dict[str, list[Any]]] = []
    for ids, distances in zip(found["ids"], found["distances"] or [], strict=True):
        pairs = [(rows[id], distance) for id, distance in zip(ids, distances, strict=True) if id in rows]
        near.append({"ids": [row for row, _ in pairs], "distances": [distance for _, distance in pairs]})
    return near


def _batch(
    page: Page,
    near: Sequence[Mapping[str, list[Any]]],
    contents: Contents,
    names: Mapping[str, str],
    schema: pa.Schema,
) -> pa.RecordBatch:
    import pyarrow as pa

    vectors = np.ascontiguousarray(page.embeddings)  # (n, dimension)
    columns: dict[str, Any] = {ID: page.ids, TEXT: page.documents, URI: page.uris, NEIGHBOURS: near}
    for key, name in names.items():
        values = [(metadata or {}).get(key) for metadata in page.metadatas]
        columns[name] = [_text(value) for value in values] if schema.field(name).type == pa.string() else values
    columns[VECTOR] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    arrays = [columns[each.name] for each in schema]
    typed = [
        values if each.name == VECTOR else pa.array(values, each.type)
        for each, values in zip(schema, arrays, strict=True)
    ]
    return pa.RecordBatch.from_arrays(typed, schema=schema)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
