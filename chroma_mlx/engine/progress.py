"""A progress bar for long work: on a terminal only, and only when the work does take long."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

# Shorter work ends before a person would look for a bar.
DELAY_S: Final = 2.0


def progress_bar(texts: int, show: bool | None) -> AbstractContextManager[Any]:
    """A tqdm bar over `texts`. `show` None is automatic; True shows it at once, anywhere; False never."""
    from tqdm import tqdm

    # tqdm takes disable=None as "disabled when the stream is no terminal".
    disable = None if show is None else not show
    return tqdm(total=texts, desc="Embedding", unit=" texts", disable=disable, delay=DELAY_S if show is None else 0)
