"""Which texts of a pass go through the layers together, and which share rows in attention. Pure: no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

# The places that attention may pad in a group of rows. A group costs some small operations a layer, a padded
# place a quarter of a token (measured on a CPU with 0.6B shapes); a GPU starts operations dearly.
GROUP_PADDING: Final = {"cpu": 16, "gpu": 1024}
# Tokens of a part, and the fewest. The built-in model's passes are 1.13 to 1.27 times as fast in two parts of 512,
# 1.0 to 1.08 times in four of 256; a batch of 400 tokens is not faster in two parts (2 cores).
PART_TOKENS: Final = 512
LEAST_TOKENS: Final = 256
# What the last thread may take, of what each would have of work that is evenly shared.
LONGEST: Final = 1.1


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


def plan_parts(lengths: npt.NDArray[np.int32], threads: int) -> list[npt.NDArray[np.intp]]:
    """The indices of `lengths`, (B,), the tokens of each text, in parts that so many threads take through all layers,
    each a part by itself. In a part texts are the longest first.

    One part where that would leave a thread without work: then all share the work of each step. Layer by layer
    threads wait for one another some hundred times a pass, longer where another program takes their cores. (A CPU's
    passes of 1,024 tokens have parts for 4 threads; more than 4 share the work of each step.)
    """
    total = int(lengths.sum())
    count = max(threads, total // PART_TOKENS)
    if threads == 1 or total < LEAST_TOKENS * count:
        return [np.arange(len(lengths))]
    order = np.argsort(-lengths, kind="stable")
    middles = np.cumsum(lengths[order]) - lengths[order] / 2
    places = (middles * count / total).astype(int)
    parts = [part for place in range(count) if len(part := order[places == place])]
    busy = [0] * threads  # as they take the next part when they are done with one
    for part in parts:
        busy[busy.index(min(busy))] += int(lengths[part].sum())
    return parts if max(busy) * threads <= LONGEST * total else [np.arange(len(lengths))]
