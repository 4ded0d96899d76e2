"""A pass: texts through an encoder's layers, and one hidden state for each. Runs on the MLX thread, but for the parts
that other threads take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..blas import one_thread
from ..models.architecture import Encoder
from ..models.batch import LIST_STEP, Batch, Prefix, make_batch
from ..models.groups import GROUP_PADDING, plan_parts
from ..models.host import Array, in_blocks
from .pooling import means, wanted_tokens
from .tokens import TokenIds


def forward(
    encoder: Encoder,
    rows: Sequence[TokenIds],
    *,
    device: str,
    threads: int,
    pooling: str,
    skip: int,
    prefix: Prefix | None,
) -> Array:
    """The pooled hidden states of texts by their token ids, which begin with the prefix: (B, H).

    threads: how many may go through the layers at once, each with texts of its own; more than 1 on a host alone (see
    host.py). `skip`: tokens at the start that are not pooled.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    wanted = wanted_tokens(lengths, pooling, skip)
    parts = plan_parts(lengths - (0 if prefix is None else prefix.tokens), threads)
    batches = [
        make_batch(
            [rows[index] for index in part],
            padding=GROUP_PADDING[device],
            step=LIST_STEP[device],
            wanted=None if wanted is None else wanted[part],
            prefix=prefix,
        )
        for part in parts
    ]
    if len(batches) == 1:
        return _pool(batches[0], encoder(batches[0]), skip)
    # MLX looks the embeddings up, so here, for all parts.
    ids, positions = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "positions"))
    embedded = np.split(encoder.embed(ids, positions), np.cumsum([batch.ids.size for batch in batches[:-1]]))
    pooled = np.empty((len(rows), embedded[0].shape[1]), dtype=np.float32)

    def compute(place: slice) -> None:
        index = place.start
        pooled[parts[index]] = _pool(batches[index], encoder(batches[index], embedded[index]), skip)

    with one_thread():  # a part each
        in_blocks(compute, len(parts), 1)
    return pooled


def _pool(batch: Batch, hidden: Array, skip: int) -> Array:
    """hidden: of all tokens, (T, H), or of the wanted of each text, (B, H)."""
    return means(batch.groups, hidden, skip) if batch.wanted is None else hidden
