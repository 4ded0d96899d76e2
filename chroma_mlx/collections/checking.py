"""A file's records, all of them checked before the first is written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import ExportFileError
from ..pages import Page
from ..router.metadata import read_metadata
from .parquet import read_batches

DIGEST_BYTES: Final = 16


def check_file(path: Path, file: Any) -> None:
    """Raises ExportFileError for the first record that no collection may hold, or an id that comes twice."""
    digests = bytearray()
    row = 0
    try:
        for page in read_batches(file):
            _check_page(path, page, row)
            for id in page.ids:
                digests += hashlib.blake2b(id.encode(), digest_size=DIGEST_BYTES).digest()
            row += len(page)
    except ValueError as error:
        if isinstance(error, ExportFileError):
            raise
        raise ExportFileError(f"{path} was changed after it was exported: {error}, near row {row}.") from error
    if (twice := _repeated(digests)) is not None:
        id = next(page.ids[twice - start] for start, page in _numbered(file) if start <= twice < start + len(page))
        raise ExportFileError(
            f"{path} was changed after it was exported: the id {id!r} of row {twice} is that of an earlier row too. "
            "Nothing was written."
        )


def _check_page(path: Path, page: Page, row: int) -> None:
    problem = None
    for place, id in enumerate(page.ids):
        if not id:
            problem = (place, "has no id")
        try:
            if (metadata := page.metadatas[place]) is not None:
                read_metadata(metadata)
        except ValueError as error:
            problem = (place, f"has metadata that {error}")
        if problem:
            break
    bad = np.flatnonzero(~np.isfinite(page.embeddings).all(axis=1))
    if problem is None and bad.size:
        problem = (int(bad[0]), "has a vector with a value that is not finite")
    if problem is not None:
        place, reason = problem
        raise ExportFileError(
            f"{path} was changed after it was exported: row {row + place} (id {page.ids[place]!r}) {reason}. Export "
            "the collection again. Nothing was written."
        )


def _repeated(digests: bytearray) -> int | None:
    """The first row, in the file's order, whose digest an earlier row has too."""
    pairs = np.frombuffer(digests, dtype=[("high", "<u8"), ("low", "<u8")])
    order = np.lexsort((pairs["low"], pairs["high"]))  # stable: of equal ones, the first row comes first
    ordered = pairs[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    return int(repeated.min()) if repeated.size else None


def _numbered(file: Any) -> Any:
    row = 0
    for page in read_batches(file):
        yield row, page
        row += len(page)
