"""CSV and TSV: a header, then a record a row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from ..passage import Document, Reject, place_id
from .rows import MAX_LINE_BYTES, Columns, Row, bounded_lines, read_row


class _Lines:
    """The lines of a file as text for the csv module, and how many bytes they took since it was last asked.

    Bytes that are no UTF-8 become lone surrogates, which the row that has them is refused for.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = bounded_lines(file)
        self.line, self.taken, self.too_long = 0, 0, False

    def __iter__(self) -> Iterator[str]:
        for number, line, size in self._lines:
            self.line, self.taken = number, self.taken + size
            self.too_long = self.too_long or size > MAX_LINE_BYTES
            text = line.decode("utf-8", "surrogateescape")
            yield text.removeprefix("\ufeff") if number == 1 else text

    def take(self) -> tuple[int, bool]:
        """(bytes, whether a line was too long) since the last call."""
        taken, too_long = self.taken, self.too_long
        self.taken, self.too_long = 0, False
        return taken, too_long


def read_csv(file: BinaryIO, source: str, columns: Columns, *, delimiter: str = ",") -> Iterator[Document | Reject]:
    """A document for every row behind the header. An empty value is none."""
    # The module's own bound of a field is for the whole process, and too low for a text.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    lines = _Lines(file)
    # Not strict, a quote that is not closed would make one value of all that follows.
    rows = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    header = _read_header(rows, source, columns)
    if isinstance(header, Reject):
        yield header
        return
    number = 0
    while True:
        first = lines.line + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            size, _ = lines.take()
            row = Row(source=source, place={"row": number}, values=None, excerpt="", size=size)
            reason = f"it is no row of CSV, from line {first} to line {lines.line}: {error}"
            yield row.refuse(reason, id=_own_id(row, columns, lines.line - first))
            continue
        size, too_long = lines.take()
        if not cells:
            continue
        number += 1
        shown = delimiter.join(cells)[:2000].encode("utf-8", "replace").decode()
        values = dict(zip(header, (cell or None for cell in cells), strict=False))
        row = Row(source=source, place={"row": number}, values=values, excerpt=shown, size=size)
        id = _own_id(row, columns, lines.line - first)
        if too_long:
            yield row.refuse(f"line {lines.line} has more than {MAX_LINE_BYTES:,} bytes", id=id)
        elif len(cells) != len(header):
            yield row.refuse(f"it has {len(cells)} values, and the header {len(header)}, at line {lines.line}", id=id)
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in _unusual(cell)):
            yield row.refuse(f"it is not UTF-8, at line {lines.line}", id=id)
        else:
            yield read_row(row, columns)


def _own_id(row: Row, columns: Columns, more_lines: int) -> str | None:
    """The id of a refused row, by its place; None where it is a column's, or others may be in the lines it took."""
    return None if columns.id is not None or more_lines else place_id(row.source, row.place)


def _unusual(cell: str) -> str:
    return "" if cell.isascii() else cell


def _read_header(rows: Iterator[list[str]], source: str, columns: Columns) -> list[str] | Reject:
    try:
        header = next(rows)
    except StopIteration:
        return Reject(source=source, reason="it is empty; its first line must name the columns")
    except csv.Error as error:
        return Reject(source=source, reason=f"its first line is no header of CSV: {error}")
    wanted = [columns.text, *([columns.id] if columns.id is not None and not columns.id_optional else [])]
    missing = [name for name in wanted if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"has no column {missing[0]!r}" if missing else "names a column twice"
        return Reject(source=source, reason=f"its header {problem}; its columns are {', '.join(map(repr, header))}")
    return header
