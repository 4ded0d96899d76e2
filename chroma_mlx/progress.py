"""A progress bar for long work: on a terminal only, and only when the work does take long."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

# Shorter work ends before a person would look for a bar.
DELAY_S: Final = 2.0


def shows_progress(show: bool | None) -> bool:
    """Whether a bar is wanted: `show` where it is given, else where standard error is a terminal."""
    return bool(sys.stderr and sys.stderr.isatty()) if show is None else show


class Bar(Protocol):
    """What the work tells its bar."""

    def update(self, n: float | None = 1, /) -> object:
        """`n` more are done."""

    def set_postfix_str(self, s: str, /) -> object:
        """What is said behind the bar."""


class NoBar:
    """Nothing to see. tqdm's own disabled bar would still make a lock that outlives some processes."""

    def update(self, n: float | None = 1, /) -> None:
        """Does nothing."""

    def set_postfix_str(self, s: str, /) -> None:
        """Does nothing."""


def progress_bar(
    total: int, show: bool | None, *, unit: str = "texts", task: str = "Embedding"
) -> AbstractContextManager[Bar]:
    """A tqdm bar over `total`. `show` None is automatic; True shows it at once, anywhere; False never."""
    if not shows_progress(show):
        return nullcontext(NoBar())
    from tqdm import tqdm

    return tqdm(total=total, desc=task, unit=f" {unit}", delay=0 if show else DELAY_S)


def byte_bar(total: int | None, show: bool | None) -> AbstractContextManager[Bar]:
    """As `progress_bar`, over the bytes of files; None where nobody knows how many there will be."""
    if not shows_progress(show):
        return nullcontext(NoBar())
    from tqdm import tqdm

    return tqdm(total=total, desc="Ingesting", unit="B", unit_scale=True, delay=0 if show else DELAY_S)
