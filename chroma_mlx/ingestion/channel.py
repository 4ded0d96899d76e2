"""A bounded queue between two threads that ends in order, or with an error that both sides see."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """The other side went away; its error is told elsewhere."""


class Channel(Generic[T]):
    """At most `size` items wait. `end` lets the reader have what waits; `fail` ends both sides at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._failed = False

    def put(self, item: T) -> None:
        """Waits for room. Raises ChannelClosed after `fail`."""
        with self._changed:
            while len(self._items) >= self._size and not self._failed:
                self._changed.wait()
            if self._failed:
                raise ChannelClosed("The other side ended before its work was done.")
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self) -> None:
        """What waits is dropped, and whoever waits is told."""
        with self._changed:
            self._failed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """The items until the end. Raises ChannelClosed after `fail`."""
        while True:
            with self._changed:
                while not self._items and not self._ended and not self._failed:
                    self._changed.wait()
                if self._failed:
                    raise ChannelClosed("The other side ended before its work was done.")
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
