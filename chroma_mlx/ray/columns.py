"""Batches as Ray Data gives them, an array a column, as records."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..router.metadata import read_metadata


class Columns:
    """The columns of a batch by name."""

    def __init__(self, batch: Mapping[str, npt.NDArray[Any]]) -> None:
        """Raises InputError where the batch is none of columns (another batch_format)."""
        if not isinstance(batch, Mapping):
            raise InputError(
                f"The batch is a {type(batch).__name__}, not columns by name. Call map_batches with "
                "batch_format='numpy', which is Ray's own choice."
            )
        self._batch = batch

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column. Raises InputError where there is none of that name."""
        if name not in self._batch:
            found = ", ".join(map(repr, self._batch)) or "none"
            raise InputError(f"The batch has no column {name!r}; its columns are {found}. Name the right one.")
        return np.asarray(self._batch[name])

    def metadata(self, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """The metadata of each row, of these columns; what is None, NaN or NaT, as Ray has it, is left out.

        A time is text, as an ingest stores it.
        Raises InputError, naming the row, for what Chroma cannot hold.
        """
        columns = {name: _values(self[name]) for name in names}
        for row in range(len(self)):
            try:
                values = {name: _plain(column[row]) for name, column in columns.items()}
                yield read_metadata({name: value for name, value in values.items() if value is not None}) or {}
            except ValueError as error:
                raise InputError(f"The metadata of row {row} {error}. Nothing of the batch was written.") from error

    def names(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._batch)

    def __len__(self) -> int:
        return len(next(iter(self._batch.values()), ()))


def _values(column: npt.NDArray[Any]) -> list[Any]:
    return [_iso(time) for time in column] if np.issubdtype(column.dtype, np.datetime64) else list(column.tolist())


def _iso(time: np.datetime64) -> str | None:
    """A time of any unit in ISO 8601, with nanoseconds where it has some; None for none."""
    if np.isnat(time):
        return None
    value = time.item()  # a whole number where Python has no such time
    short = time.astype("datetime64[us]")
    value = short.item() if isinstance(value, int) and short == time else value
    return value.isoformat() if isinstance(value, datetime.date) else str(time)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
