"""JSON lines: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO, Final

from ..passage import MOST_SHOWN, Document, Reject, place_id
from .rows import MAX_LINE_BYTES, Columns, Row, bounded_lines, read_row

BOM: Final = b"\xef\xbb\xbf"


def read_jsonl(file: BinaryIO, source: str, columns: Columns) -> Iterator[Document | Reject]:
    """A document for every line that is not empty."""
    for number, line, size in bounded_lines(file):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield _read_line(line, source, {"line": number}, size, columns)


def _read_line(line: bytes, source: str, place: dict[str, int], size: int, columns: Columns) -> Document | Reject:
    excerpt = line[: 4 * MOST_SHOWN].decode(errors="replace").rstrip("\r\n")
    # Whose record it is nobody can tell where the id is a column, and else its place says it.
    id = place_id(source, place) if columns.id is None else None
    refusal = Row(source=source, place=place, values=None, excerpt=excerpt, size=size)
    if size > MAX_LINE_BYTES:
        return refusal.refuse(f"the line has {size:,} bytes, and the most is {MAX_LINE_BYTES:,}", id=id)
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return refusal.refuse(f"it is not UTF-8: {error.reason} at byte {error.start}", id=id)
    except (ValueError, RecursionError) as error:
        return refusal.refuse(f"it is not JSON: {error}", id=id)
    return read_row(Row(source=source, place=place, values=values, excerpt=excerpt, size=size), columns)
