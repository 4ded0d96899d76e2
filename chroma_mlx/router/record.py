"""Records: an id with a text, a vector or both; read into columns, with all that is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError, RecordProblem
from ..texts import surrogate_problem
from .metadata import read_metadata
from .vectors import read_vector

Method: TypeAlias = Literal["add", "upsert", "update"]
Vector: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One entry of a collection. `add` and `upsert` need a text or a vector; with both, the vector is stored as it is.

    `vector` is a one-dimensional array or list of numbers; `metadata` a table of what Chroma can hold
    (text, whole and finite decimal numbers, bool, lists of one of these); `uri` where the original is.
    """

    id: str
    _: KW_ONLY
    text: str | None = None
    vector: npt.ArrayLike | None = None
    metadata: Mapping[str, Any] | None = None
    uri: str | None = None


RecordLike: TypeAlias = Record | Mapping[str, Any]

KEYS: Final = tuple(each.name for each in fields(Record))
# What Chroma's own arguments, and other libraries, call these.
OTHER_NAMES: Final = {
    **dict.fromkeys(("ids", "_id"), "id"),
    **dict.fromkeys(("document", "documents", "content", "page_content"), "text"),
    **dict.fromkeys(("embedding", "embeddings", "values"), "vector"),
    **dict.fromkeys(("metadatas", "meta"), "metadata"),
    "uris": "uri",
}


@dataclass(slots=True)
class Columns:
    """Records as columns, each as long as the call; what is wrong with them is in `problems`."""

    ids: list[str] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    vectors: list[Vector | None] = field(default_factory=list)
    metadatas: list[dict[str, Any] | None] = field(default_factory=list)
    uris: list[str | None] = field(default_factory=list)
    problems: list[RecordProblem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def refuse(self, index: int, reason: str) -> None:
        """Notes what is wrong with a record."""
        self.problems.append(RecordProblem(index, self.ids[index] or None, reason))


def read_records(records: Iterable[RecordLike], method: Method, *, embeds: bool) -> Columns:
    """The records as columns. `embeds`: whether a text without a vector gets one.

    Raises InputError when there are none, or it is no collection of records at all.
    """
    if isinstance(records, str | bytes | Mapping | Record) or not isinstance(records, Iterable):
        one = isinstance(records, Mapping | Record)
        raise InputError(
            f"{method} takes a list of records, and got {'one record' if one else f'a {type(records).__name__}'}. "
            f'Pass a list: {method}([{{"id": …, "text": …}}]).'
        )
    columns = Columns()
    first: dict[str, int] = {}
    for index, record in enumerate(records):
        usable = _read_one(columns, index, record)
        known = columns.ids[index]
        if known and first.setdefault(known, index) != index:
            columns.refuse(index, f"its id is that of record {first[known]} too. Give every record its own id.")
        if method == "add" and (metadata := columns.metadatas[index]) is not None:
            # None takes a key away, and a new record has none to take.
            columns.metadatas[index] = {key: value for key, value in metadata.items() if value is not None} or None
        if usable:  # a value that cannot be used is not missing too
            _check_content(columns, index, method, embeds)
    if not columns.ids:
        raise InputError(f"There is no record to {method}: the list is empty. Pass at least one record.")
    return columns


def _read_one(columns: Columns, index: int, record: object) -> bool:
    """Adds a row for `record`, None where a value is missing or cannot be used; returns whether all can."""
    values: Mapping[Any, Any] = {}
    reasons: list[str] = []
    if isinstance(record, Record):
        values = {name: getattr(record, name) for name in KEYS}
    elif isinstance(record, Mapping):
        values = record
        reasons += [_unknown(key) for key in values if key not in KEYS]
    else:
        reasons.append(
            f"it is of type {type(record).__name__}, not a record. Pass a dict with the keys {', '.join(KEYS)}."
        )
    readers: tuple[tuple[str, list[Any], Callable[[Any], Any]], ...] = (
        ("id", columns.ids, _read_id),
        ("text", columns.texts, _read_text),
        ("vector", columns.vectors, read_vector),
        ("metadata", columns.metadatas, read_metadata),
        ("uri", columns.uris, _read_text),
    )
    for name, column, read in readers:
        value = values.get(name)
        try:
            column.append(None if value is None else read(value))
        except ValueError as error:
            column.append(None)
            reasons.append(f"its {name} {error}.")
    if columns.ids[index] is None:
        columns.ids[index] = ""
        if values.get("id") is None and isinstance(record, Mapping | Record):
            reasons.append("it has no id. Give every record an id, a text of one character or more.")
    for reason in reasons:
        columns.refuse(index, reason)
    return not reasons


def _check_content(columns: Columns, index: int, method: Method, embeds: bool) -> None:
    if columns.vectors[index] is not None:
        return
    if columns.texts[index] is not None:
        if not embeds:
            columns.refuse(
                index, "it has a text and no vector, and mode 'user_provided' embeds nothing. Give it a vector too."
            )
    elif method != "update":
        wanted = "a text or a vector" if embeds else "a vector"
        columns.refuse(index, f"it has neither text nor vector. Give it {wanted}.")
    elif columns.metadatas[index] is None and columns.uris[index] is None:
        columns.refuse(index, "it changes nothing. Give it a text, a vector, metadata or a uri.")


def _read_id(value: object) -> str:
    text = _read_text(value)
    if text == "":
        raise ValueError("is empty. Give every record an id, a text of one character or more")
    return text


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is of type {type(value).__name__}, not str")
    if problem := surrogate_problem(value):
        raise ValueError(f"{problem}. Decode its source with the right encoding")
    return str.__str__(value)  # of an enumeration's member the text, not its name


def _unknown(key: object) -> str:
    meant = OTHER_NAMES.get(key) if isinstance(key, str) else None
    hint = f"Did you mean {meant!r}?" if meant else f"Known keys are {', '.join(KEYS)}; all else goes into metadata."
    return f"unknown key {key!r}. {hint}"


def select(column: Sequence[Any], places: Sequence[int]) -> list[Any] | None:
    """The values of a column at `places`; None when none of them is set, as Chroma wants it."""
    values = [column[place] for place in places]
    return None if all(value is None for value in values) else values
