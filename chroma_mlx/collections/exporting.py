"""A collection into a Parquet file: all of it, or no file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..disk import disk_errors
from ..pages import read_pages
from ..progress import progress_bar
from ..router.matching import FINGERPRINT_KEY, read_fingerprint
from ..router.target import SPACE_KEY, index_of, space_of
from .parquet import Origin, need_pyarrow, schema_of, to_batch
from .whole_file import check_writable, whole_file

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection


def origin_of(collection: Collection) -> Origin:
    """What the collection is, beside its records. Raises CollectionMismatch for a damaged fingerprint."""
    metadata = {key: value for key, value in (collection.metadata or {}).items() if key != SPACE_KEY}
    fingerprint = read_fingerprint(collection.name, metadata)
    metadata.pop(FINGERPRINT_KEY, None)
    return Origin(
        collection=collection.name,
        dimension=collection.get_model()["dimension"],
        space=space_of(collection),
        function=dict(collection.configuration_json).get("embedding_function"),
        index={key: value for key, value in index_of(collection).items() if key != "space" and value is not None},
        metadata=metadata,
        fingerprint=fingerprint,
    )


@disk_errors(kept=False)
def export_collection(collection: Collection, path: Path, *, replace: bool = False) -> int:
    """Writes every record and what made them to `path`, under another name until it is whole; returns how many.

    Memory is bounded by a page of records. Raises ConfigError when there is a file already and `replace` is not
    given, CollectionChanged when records were removed meanwhile, MissingPackage without pyarrow, OSError.
    """
    need_pyarrow()
    import pyarrow.parquet as pq

    check_writable(path, replace=replace)
    origin = origin_of(collection)
    schema = schema_of(origin)
    total, records = collection.count(), 0
    with (
        whole_file(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["document", "uri"]) as writer,
        progress_bar(total, None, unit="records", task="Exporting") as bar,
    ):
        for page in read_pages(collection):
            writer.write_batch(to_batch(page, schema))
            records += len(page)
            bar.update(len(page))
    return records
