"""Which texts of a batch share rows in attention. Pure: no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# The places that attention may pad in a group of rows. A group costs some small operations a layer, a padded
# place a quarter of a token (measured on a CPU with 0.6B shapes); a GPU starts operations dearly.
GROUP_PADDING: Final = {"cpu": 16, "gpu": 1024}


def plan_groups(counts: Sequence[int], padding: int) -> list[slice]:
    """Which neighbours share a group: while padding them to the longest takes at most `padding` places."""
    groups: list[slice] = []
    start = longest = total = 0
    for index, count in enumerate(counts):
        widest = max(longest, count)
        if index > start and widest * (index + 1 - start) - total - count > padding:
            groups.append(slice(start, index))
            start, widest, total = index, count, 0
        longest, total = widest, total + count
    return [*groups, slice(start, len(counts))]
