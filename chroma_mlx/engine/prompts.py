"""The prompts that stand before many texts: their keys and values, computed once. Runs on the MLX thread only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from .tokens import TokenIds

if TYPE_CHECKING:
    from ..models.architecture import Encoder
    from ..models.batch import Prefix

# A shorter prompt is not worth the look-up, a longer one not the memory: 0.2 MB a token of a 0.6B model.
SHORTEST_PROMPT: Final = 4
LONGEST_PROMPT: Final = 512
# At the seam with a text a tokenizer may make other tokens of a prompt's end: of so many at most.
SEAM_TOKENS: Final = 4
# Tokens of all prompts of a model that are kept at once.
KEPT_TOKENS: Final = 1024


def is_reusable(prompt: TokenIds, *, causal: bool, pooling: str) -> bool:
    """Whether what a prompt gives is computed once: nothing behind it changes it, and it is not pooled itself."""
    return causal and pooling == "last" and SHORTEST_PROMPT <= len(prompt) <= LONGEST_PROMPT


class Prompts:
    """The prefixes of one model, the last used, of KEPT_TOKENS tokens at most."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()

    def prefix(self, encoder: Encoder, prompt: TokenIds, rows: Sequence[TokenIds]) -> Prefix | None:
        """What every one of `rows` begins with of a reusable `prompt`, computed by the `encoder` the first time.

        By itself, so that a text's vector is the same the first time as later. None where too little is shared.
        """
        shared = shared_tokens(rows, prompt)
        if shared < SHORTEST_PROMPT:
            return None
        key = prompt.tobytes()
        if key not in self._kept:
            self._kept[key] = _compute(encoder, prompt)
        self._kept.move_to_end(key)
        while sum(prefix.tokens for prefix in self._kept.values()) > KEPT_TOKENS:
            self._kept.popitem(last=False)
        return self._kept[key].cut(shared)


def _compute(encoder: Encoder, prompt: TokenIds) -> Prefix:
    from ..models.batch import Prefix, make_batch

    last = np.array([len(prompt) - 1], dtype=np.int32)
    batch = make_batch([prompt], padding=0, wanted=last, keep=True)
    encoder(batch)
    assert batch.kept, "a causal encoder keeps what the batch asks for"
    return Prefix.of(batch.kept)


def own_tokens(rows: Sequence[TokenIds], prompt: TokenIds | None) -> list[tuple[list[int], list[int]]]:
    """(indices, tokens to compute of each) of rows that may share a pass: those behind a reusable `prompt`, the rest.

    A pass reuses what all of its rows begin with, so one row without the prompt (cut on the left, say) would make
    it compute the prompt of every other.
    """
    if prompt is None:
        return [(list(range(len(rows))), [len(row) for row in rows])]
    least = max(SHORTEST_PROMPT, len(prompt) - SEAM_TOKENS)
    shared = [shared_tokens([row], prompt) for row in rows]
    behind = [index for index, count in enumerate(shared) if count >= least]
    rest = [index for index, count in enumerate(shared) if count < least]
    least = min((shared[index] for index in behind), default=0)
    parts = [(behind, [len(rows[index]) - least for index in behind]), (rest, [len(rows[index]) for index in rest])]
    return [part for part in parts if part[0]]


def shared_tokens(rows: Sequence[TokenIds], prompt: TokenIds) -> int:
    """How many tokens of `prompt` every row begins with, while at least one of its own is left.

    Its last ones may be others in a row: a tokenizer joins what stands at the seam with the text.
    """
    shared = len(prompt)
    for row in rows:
        shared = min(shared, len(row) - 1)
        different = np.flatnonzero(row[:shared] != prompt[:shared])
        shared = int(different[0]) if len(different) else shared
    return shared
