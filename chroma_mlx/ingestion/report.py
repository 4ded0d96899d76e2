"""What an ingest says of its work."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any, Final

from .passage import Reject

# Rejects that the result itself holds; all of them are in the file.
REJECTS_HELD: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """What an ingest did. All but `failed` count passages, as the collection has them.

    `added` are new; `updated` were there with another text or other metadata; `deleted` are gone, because their
    record has fewer passages now or, with `sync`, because their source has them no more. `failed` are records,
    files or lines that were refused, the first of which are `rejects`. `embedded` got a vector; `carried` are
    those that only the replaced collection had, which go on in the new one. `replaced` is the name under which
    that one is kept. `notes` say in words what else a person should know.
    """

    collection: str
    added: int
    updated: int
    unchanged: int
    deleted: int
    failed: int
    embedded: int
    carried: int
    seconds: float
    replaced: str | None
    rejects: tuple[Reject, ...]
    rejects_file: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name: plain JSON values."""
        found = asdict(self)
        return {**found, "rejects": [reject.to_dict() for reject in self.rejects], "notes": list(self.notes)}


class Counts:
    """Adds up; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("added", "updated", "unchanged", "deleted", "embedded", "carried"), 0)

    def add(self, **amounts: int) -> None:
        """Adds to the counts by name."""
        with self._lock:
            for name, amount in amounts.items():
                self._counts[name] += amount

    def to_dict(self) -> dict[str, int]:
        """The counts by name."""
        with self._lock:
            return dict(self._counts)
