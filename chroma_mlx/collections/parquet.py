"""The file that a collection travels in: Parquet, with all that is no record in the metadata of its schema."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import ExportFileError, MissingPackage
from ..pages import Page

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

KEY: Final = b"chroma_mlx:collection"
FORMAT: Final = 1
ROWS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What an exported collection was, beside its records; plain JSON values.

    `function` is the saved function ({"type", "name", "config"}), None where there was none; `index` are the settings
    of the index, the space among them; `metadata` the collection's own, the fingerprint not among them.
    """

    collection: str
    dimension: int | None
    space: str
    function: dict[str, Any] | None
    index: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] | None = None


def need_pyarrow() -> None:
    """Raises MissingPackage, which names the extra, where pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingPackage("pyarrow", "'chroma-mlx[parquet]'")


def schema_of(origin: Origin) -> pa.Schema:
    """The columns, and the origin in the schema's metadata. Vectors are of fixed width, where it is known."""
    import pyarrow as pa

    vector = pa.list_(pa.float32(), origin.dimension) if origin.dimension else pa.list_(pa.float32())
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document", pa.string()),
            pa.field("embedding", vector, nullable=False),
            pa.field("uri", pa.string()),
            pa.field("metadata", pa.string()),  # JSON, which tells 1 from 1.0 and true
        ],
        metadata={KEY: json.dumps({"format": FORMAT, **asdict(origin)}, ensure_ascii=False).encode()},
    )


def to_batch(page: Page, schema: pa.Schema) -> pa.RecordBatch:
    """A page as rows of the file."""
    import pyarrow as pa

    vectors = np.ascontiguousarray(page.embeddings, dtype=np.float32)  # (n, dimension)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    columns = [
        pa.array(page.ids, pa.string()),
        pa.array(page.documents, pa.string()),
        embedding,
        pa.array(page.uris, pa.string()),
        pa.array([None if values is None else to_json(values) for values in page.metadatas], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def to_json(metadata: dict[str, Any]) -> str:
    """Metadata as JSON, the same for equal values of equal types."""
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True)


@contextmanager
def opened(path: Path) -> Iterator[tuple[pq.ParquetFile, Origin]]:
    """The file and its origin. Raises ExportFileError for any other file, MissingPackage."""
    need_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file, _origin(path, file.schema_arrow)
    except pa.ArrowException as error:
        raise ExportFileError(
            f"{path} is no Parquet file, or not the whole of one ({error}). Export the collection again."
        ) from error


def read_batches(file: pq.ParquetFile) -> Iterator[Page]:
    """The file's records, at most ROWS at a time, in order. Raises ValueError for what is no vector or JSON."""
    for batch in file.iter_batches(batch_size=ROWS):
        columns = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
        embedding, rows = columns["embedding"], len(batch)
        values = embedding.flatten()
        if embedding.null_count or values.null_count:
            raise ValueError("a vector, or a value of one, is missing")
        vectors = values.to_numpy(zero_copy_only=False)
        yield Page(
            ids=columns["id"].to_pylist(),
            documents=columns["document"].to_pylist(),
            embeddings=vectors.reshape(rows, -1) if rows else np.empty((0, 0), dtype=np.float32),
            metadatas=_read_json(columns["metadata"].to_pylist()),
            uris=columns["uri"].to_pylist(),
        )


def _read_json(texts: Sequence[str | None]) -> list[dict[str, Any] | None]:
    return [None if text is None else json.loads(text) for text in texts]


def _origin(path: Path, schema: pa.Schema) -> Origin:
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        raise ExportFileError(
            f"{path} is Parquet, but was not written by `chroma-mlx export`: its schema does not say what made the "
            "vectors. Import a file that export wrote; put other files into a collection with a program of your own."
        )
    try:
        stated = json.loads(text)
        version = stated.pop("format")
        origin = Origin(**stated) if version == FORMAT else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportFileError(
            f"{path} has a damaged {KEY.decode()!r} in its schema ({error}). Export it again."
        ) from error
    if origin is None:
        raise ExportFileError(f"{path} has format {version!r}, and this version reads {FORMAT}. Upgrade chroma-mlx.")
    expected = schema_of(origin)
    for name in expected.names:
        place = schema.get_field_index(name)
        found = None if place < 0 else schema.field(place).type
        if found != expected.field(name).type:
            was = "is missing" if found is None else f"is of type {found}, not {expected.field(name).type}"
            raise ExportFileError(f"{path} was changed after it was exported: its column {name!r} {was}.")
    return origin
