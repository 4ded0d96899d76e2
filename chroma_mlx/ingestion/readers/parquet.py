"""Parquet, by pyarrow: a record a row, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from ..passage import MOST_SHOWN, Document, Reject
from .rows import Columns, Row, read_row

# What is decoded at once.
ROWS: Final = 1_024
BYTES: Final = 8 * 2**20


def read_parquet(file: BinaryIO, source: str, columns: Columns) -> Iterator[Document | Reject]:
    """A document for every row. A file that is none, or is damaged on the way, is a reject."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
        names = table.schema_arrow.names
        wanted = [columns.text, *([columns.id] if columns.id is not None and not columns.id_optional else [])]
        if missing := [name for name in wanted if name not in names]:
            shown = ", ".join(map(repr, names))
            yield Reject(source=source, reason=f"it has no column {missing[0]!r}; its columns are {shown}")
            return
        size = file.seek(0, 2) // max(1, table.metadata.num_rows)  # of a row, on the mean
        for batch in _batches(table):
            for values, problem in _values(batch):
                number += 1
                excerpt = str(values.get(columns.text))[:MOST_SHOWN].encode("utf-8", "replace").decode()
                row = Row(source=source, place={"row": number}, values=values, excerpt=excerpt, size=size)
                found = read_row(row, columns)
                if problem is not None:
                    found = row.refuse(problem, id=found.record_id if isinstance(found, Document) else found.id)
                yield found
    except (pyarrow.ArrowException, OSError) as error:
        yield Reject(source=source, reason=f"it cannot be read as Parquet behind row {number}: {error}")


def _batches(table: Any) -> Iterator[Any]:
    """The rows of a file, one group of them after another, about `BYTES` together as the file states their size."""
    for group in range(table.metadata.num_row_groups):
        stated = table.metadata.row_group(group)
        rows = max(1, min(ROWS, BYTES * stated.num_rows // max(1, stated.total_byte_size)))
        for batch in table.iter_batches(batch_size=rows, row_groups=[group], use_threads=False):
            # A text that is in many rows is stated once, and decoded for each.
            step = max(1, batch.num_rows * BYTES // max(1, batch.nbytes))
            yield from (batch.slice(start, step) for start in range(0, batch.num_rows, step))


def _values(batch: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The values of each row by column, without those that have no form in Python, and what is wrong with these."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from (_read_cells(batch.slice(place, 1)) for place in range(batch.num_rows))
    else:
        yield from ((row, None) for row in rows)


def _read_cells(row: Any) -> tuple[dict[str, Any], str | None]:
    values, problem = dict[str, Any](), None
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            [values[name]] = column.to_pylist()
        except (ValueError, OverflowError) as error:  # no UTF-8, or a date beyond the years that Python has
            problem = f"its column {name!r} cannot be read: {error}"
    return values, problem
