"""Texts that wait for a forward pass: bounded, gathered into batches, queries first. Pure: no threads, no clock.

What waits is a piece: texts of one call that go into one pass. Pieces of several calls share a pass when
they agree on all that the pass depends on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]
Kind = Literal["query", "document"]
Rows = npt.NDArray[np.float32]

# While both wait, every so many passes one is of documents: so queries wait for one pass of documents at most, and
# documents keep a share of the engine under any load of queries.
DOCUMENT_TURN: Final = 4
# Pieces that do not belong or fit into a pass, behind which others may still do.
LOOK_BEYOND: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Texts of one call for one pass: token ids of each.

    `key`: what must be equal for two to share a pass; `tokens`: those to compute; `run`: called with the rows of
    the whole pass, gives their raw vectors, (texts, width) float32. `most_texts` and `most_tokens` bound the pass,
    and `padding` the places that attention may pad in a group of texts (only the metrics need it).
    """

    key: Hashable
    kind: Kind
    rows: list[TokenIds]
    tokens: int
    run: Callable[[list[TokenIds]], Rows]
    most_texts: int
    most_tokens: int
    padding: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Piece:
    """Work that waits, and the future that gets its vectors. Times are seconds of one clock.

    `call`: whose it is; after `deadline` nobody waits for it. `at_once`: nothing else waited or ran when it came.
    `linger_s`: how long its pass may wait for other callers.
    """

    work: Work
    call: int
    arrived: float
    deadline: float | None = None
    linger_s: float = 0.0
    at_once: bool = False
    future: Future[Rows] = field(default_factory=Future)

    @property
    def texts(self) -> int:
        """How many."""
        return len(self.work.rows)


class Waiting:
    """The pieces that wait, in the order they came.

    What happens at every call takes the same time however many wait; `expired` and `clear` go through all.
    """

    def __init__(self) -> None:
        # Dicts, since a piece may leave from any place.
        self._pieces: dict[Kind, dict[Piece, None]] = {"query": {}, "document": {}}
        self._calls: Counter[int] = Counter()  # pieces of each call
        self._since_documents = 0
        self._earliest = math.inf  # no deadline is before it
        self.texts: Counter[Kind] = Counter()
        self.tokens: Counter[Kind] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._pieces.values()))

    def has_room(self, piece: Piece, *, max_texts: int, max_tokens: int) -> bool:
        """Whether a piece may wait too, beside others of its kind: so documents never take the room of queries.

        One that is larger than the bounds may when it is alone.
        """
        kind = piece.work.kind
        fits = self.texts[kind] + piece.texts <= max_texts and self.tokens[kind] + piece.work.tokens <= max_tokens
        return fits or not self._pieces[kind]

    def put(self, piece: Piece) -> None:
        """Adds a piece behind the others of its kind."""
        self._pieces[piece.work.kind][piece] = None
        self._calls[piece.call] += 1
        self._earliest = min(self._earliest, math.inf if piece.deadline is None else piece.deadline)
        self.texts[piece.work.kind] += piece.texts
        self.tokens[piece.work.kind] += piece.work.tokens

    def remove(self, piece: Piece) -> bool:
        """Takes a piece out; False where it does not wait any more."""
        pieces = self._pieces[piece.work.kind]
        if piece not in pieces:
            return False
        del pieces[piece]
        self._calls[piece.call] -= 1
        if not self._calls[piece.call]:
            del self._calls[piece.call]
        self.texts[piece.work.kind] -= piece.texts
        self.tokens[piece.work.kind] -= piece.work.tokens
        return True

    def clear(self) -> list[Piece]:
        """Takes every piece out."""
        pieces = [piece for some in self._pieces.values() for piece in some]
        for piece in pieces:
            self.remove(piece)
        return pieces

    def expired(self, now: float) -> list[Piece]:
        """Takes out the pieces whose deadline is `now` or was before."""
        if now < self._earliest:
            return []
        late, self._earliest = [], math.inf
        for piece in [piece for some in self._pieces.values() for piece in some]:
            if piece.deadline is None:
                continue
            if now >= piece.deadline:
                self.remove(piece)
                late.append(piece)
            else:
                self._earliest = min(self._earliest, piece.deadline)
        return late

    def start_at(self, *, free_since: float, calls: int) -> float | None:
        """When the next pass is to begin; None while nothing waits.

        At once when the pass is full, when a piece came to an idle engine, or when each of the `calls` under
        way has a piece here, since nobody is left to wait for; else `linger_s` of the first piece after the engine
        became free or that piece came, whichever is later.
        """
        head = self._head()
        if head is None:
            return None
        batch, full = self._batch(head)
        if full or any(piece.at_once for piece in batch) or len(self._calls) >= calls:
            return head.arrived
        return max(free_since, head.arrived) + head.linger_s

    def take(self) -> list[Piece]:
        """Takes out the next pass's pieces, which share a key and a kind; none while nothing waits."""
        head = self._head()
        if head is None:
            return []
        both = all(self._pieces.values())
        self._since_documents = self._since_documents + 1 if both and head.work.kind == "query" else 0
        batch, _ = self._batch(head)
        for piece in batch:
            self.remove(piece)
        return batch

    def _head(self) -> Piece | None:
        """The piece that decides what the next pass is of."""
        query, document = (next(iter(self._pieces[kind]), None) for kind in ("query", "document"))
        if query is not None and document is not None:
            return document if self._since_documents >= DOCUMENT_TURN - 1 else query
        return query or document

    def _batch(self, head: Piece) -> tuple[list[Piece], bool]:
        """`head` and those behind it that fit into its pass, and whether it is full.

        One that does not belong or fit is passed over, and after LOOK_BEYOND of them nobody looks further.
        """
        most_texts, most_tokens = head.work.most_texts, head.work.most_tokens
        batch, texts, tokens, beyond, others = [head], head.texts, head.work.tokens, 0, 0
        for piece in self._pieces[head.work.kind]:
            if texts >= most_texts or tokens >= most_tokens:
                return batch, True
            if beyond + others >= LOOK_BEYOND:
                break
            if piece is head:
                continue
            if piece.work.key != head.work.key:
                others += 1
            elif texts + piece.texts <= most_texts and tokens + piece.work.tokens <= most_tokens:
                batch.append(piece)
                texts, tokens = texts + piece.texts, tokens + piece.work.tokens
            else:
                beyond += 1
        return batch, beyond > 0 or texts >= most_texts or tokens >= most_tokens
