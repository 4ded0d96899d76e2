"""Plans which texts share a forward pass. Pure: no model, no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Another forward pass costs as much time as computing about this many tokens, so up to that much padding in a
# batch is cheaper. On a CPU it is reading the weights (measured: 20 tokens of a 0.6B model, 40 of the built-in
# one); on a GPU launching some thousand operations (an estimate from published rates, not measured).
PADDING_TOKENS: Final = {"cpu": 32, "gpu": 256}


def plan_batches(lengths: Sequence[int], *, batch_size: int, batch_tokens: int, padding_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in batches, each index once, longest first.

    A batch is padded to its longest text, which is its first. It holds at most `batch_size` texts and
    `batch_tokens` padded tokens (one text alone may be longer), and at most `padding_tokens` of padding.
    Longest first, so that a batch that does not fit the memory fails at once and not at the end.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    longest = padding = 0
    for index in order:
        length = lengths[index]
        batch = batches[-1] if batches else []
        fits = (
            0 < len(batch) < batch_size
            and (len(batch) + 1) * longest <= batch_tokens
            and padding + longest - length <= padding_tokens
        )
        if fits:
            batch.append(index)
            padding += longest - length
        else:
            batches.append([index])
            longest, padding = length, 0
    return batches
