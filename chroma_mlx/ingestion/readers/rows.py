"""What the formats of records share: a row of columns becomes a document, or a reject."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from ...router.metadata import read_metadata
from ...texts import surrogate_problem
from ..passage import OWN_KEYS, Document, Reject, place_id

# A longer line is a reject; so is a longer document. Both are bounds of memory.
MAX_LINE_BYTES: Final = 16 * 2**20
MAX_DOCUMENT_BYTES: Final = 64 * 2**20
AS_TEXT: Final = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The column that holds the text, and the one that holds the id; None takes the id from the place.

    `id_optional`: a row without that column has its id from its place.
    """

    text: str = "text"
    id: str | None = None
    id_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as a format has it, and where it stands. `values` is a mapping, or whatever was found instead.

    `metadata` are more columns, whose names say nothing of the row's text and id.
    """

    source: str
    place: Mapping[str, int]
    values: object
    excerpt: str
    size: int
    metadata: Mapping[Any, Any] = field(default_factory=dict)

    def refuse(self, reason: str, *, id: str | None = None) -> Reject:
        """The row as a reject."""
        return Reject(source=self.source, place=self.place, id=id, reason=reason, excerpt=self.excerpt, size=self.size)


def read_row(row: Row, columns: Columns) -> Document | Reject:
    """The document of a row: its text, its id, and every other column as metadata."""
    own_id = None if columns.id is not None and not columns.id_optional else place_id(row.source, row.place)
    if not isinstance(row.values, Mapping):
        kind = "null" if row.values is None else type(row.values).__name__
        return row.refuse(f"it is no object with a column for the text, but {kind}", id=own_id)
    values = dict(row.values)
    named: str | None = None
    if columns.id is not None and not (columns.id_optional and columns.id not in values):
        try:
            named = _read_id(values.pop(columns.id, None))
        except ValueError as error:
            return row.refuse(f"its id, column {columns.id!r}, {error}", id=None)
        own_id = named
    if columns.text not in values:
        found = ", ".join(map(repr, list(row.values)[:10])) or "none"
        return row.refuse(f"it has no column {columns.text!r} for the text; its columns are {found}", id=own_id)
    text = values.pop(columns.text)
    if problem := text_problem(text):
        return row.refuse(f"its text, column {columns.text!r}, {problem}", id=own_id)
    if twice := [key for key in row.metadata if key in values]:
        return row.refuse(f"its metadata have the key {twice[0]!r}, as which a column is named; rename one", id=own_id)
    try:
        metadata = read_columns({**values, **row.metadata})
    except ValueError as error:
        return row.refuse(f"its metadata {error}", id=own_id)
    return Document(
        source=row.source,
        text=str.__str__(text),
        id=named,
        place=row.place,
        columns=metadata,
        size=row.size,
    )


def read_columns(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Columns as metadata of Chroma's. What is nested becomes JSON, what is None is left out.

    A column with a name of the ingest's own gets an underscore behind it. Raises ValueError with what is wrong.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        name = f"{key}_" if key in OWN_KEYS else key
        if name in found or (name != key and name in values):
            raise ValueError(
                f"has the columns {key!r} and {name!r}, of which the first is named as the second; rename one"
            )
        found[name] = _plain(value)
    return read_metadata(found) or {}


def text_problem(text: object) -> str | None:
    """Why this is no text to embed, in words; None where it is one."""
    if not isinstance(text, str):
        return "is null" if text is None else f"is a {type(text).__name__}, not a text"
    if not text.strip():
        return "is empty"
    if problem := surrogate_problem(text):
        return problem
    # No character has more than 4 bytes, so that most texts need not be encoded to know.
    too_long = 4 * len(text) > MAX_DOCUMENT_BYTES and len(text.encode()) > MAX_DOCUMENT_BYTES
    return f"has more than {MAX_DOCUMENT_BYTES:,} bytes; split it" if too_long else None


def _read_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        raise ValueError("is missing")
    if not isinstance(value, str):
        raise ValueError(f"is a {type(value).__name__}, not a text or a whole number")
    if not value.strip():
        raise ValueError("is empty")
    if problem := surrogate_problem(value):
        raise ValueError(problem)
    return str.__str__(value)


def _plain(value: Any) -> Any:
    if isinstance(value, AS_TEXT):
        return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
    if isinstance(value, Mapping):
        return _json(value)
    if isinstance(value, list | tuple):
        kinds = {type(each) for each in value}
        return value if len(kinds) == 1 and kinds <= {str, int, float, bool} else _json(value)
    return value


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain_or_refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"has a nested value that is not JSON ({error}); leave it out") from error


def _plain_or_refuse(value: Any) -> Any:
    plain = _plain(value)
    if plain is value:
        raise TypeError(f"it holds a {type(value).__name__}")
    return plain


def bounded_lines(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, line, bytes it took) of each line; one that is too long is cut to one byte more than may be."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        size = len(line)
        more = line
        while len(more) > MAX_LINE_BYTES and not more.endswith(b"\n"):
            more = file.readline(MAX_LINE_BYTES + 1)
            size += len(more)
        yield number, line, size
