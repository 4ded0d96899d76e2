"""Attention shared by the architectures. Runs on the MLX thread only."""

from __future__ import annotations

from functools import partial
from typing import Final

import mlx.core as mx

from ..blas import own_product
from .batch import Batch, Group, Ints, KeysValues, Rows
from .host import softmax, view
from .host_attention import attend_by_text, is_worth_it
from .placing import Placing
from .sight import Sight, added

# Without a fused kernel the scores of G * N * queries * keys are held as float32. Queries are taken in
# blocks whose scores fit these bytes, so memory is bounded at any length, and of at most so many queries: of a
# causal text the keys behind a block's last query are not computed, so that half are left out in the limit.
MAX_SCORE_BYTES: Final = 32 * 2**20
MAX_BLOCK: Final = 256


def attend(
    batch: Batch,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    heads: int,
    key_heads: int,
    scale: float,
    sight: Sight,
    host: bool,
    last: bool,
    placing: tuple[Placing, Placing] | None = None,
    prefix: KeysValues | None = None,
) -> mx.array:
    """What each token gathers from its text, a group of texts at a time.

    q: (n, heads * D), of all tokens, or in the `last` layer of the wanted, as `batch.take` gives them; k, v:
    (T, key_heads * D). `placing` turns queries and keys into what is compared; the memory of both may be used up.
    `prefix` are this layer's keys and values before every text. Returns (n, heads * D).
    """
    if placing is not None:
        if host:
            mx.eval(q, k)
        q, k = placing[0].on_list(q, batch, last=last), placing[1].on_list(k, batch, last=False)

    def gather(group: Group) -> mx.array:
        rows, every = group.wanted if last else group.every, group.every
        queries, keys = rows.heads(q, heads), every.heads(k, key_heads)  # (G, N, R, D), (G, K, R, D)
        if placing is not None:
            queries, keys = placing[0].on_rows(queries, rows), placing[1].on_rows(keys, every)
        values = every.heads(v, key_heads)  # (G, K, R, D)
        if batch.kept is not None:
            batch.kept.append((keys, values))
        if prefix is not None:
            keys, values = _behind(prefix[0], keys), _behind(prefix[1], values)  # (G, K, P + R, D)
        return rows.merge(attention(queries, keys, values, scale=scale, sight=sight, rows=rows, host=host))

    by_text = []  # the groups whose texts are long enough, where the BLAS is to be had
    if host and batch.kept is None and not (last and batch.wanted is not None) and own_product() is not None:
        by_text = [group for group in batch.groups if is_worth_it(group.every, q.shape[1])]
    if not by_text:
        parts = [gather(group) for group in batch.groups]
        if batch.spare and not (last and batch.wanted is not None):
            parts.append(mx.zeros((batch.spare, parts[0].shape[1]), dtype=parts[0].dtype))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)
    mx.eval(q, k, v)
    for group in batch.groups:
        if group in by_text:
            shape = {"heads": heads, "key_heads": key_heads}
            attend_by_text(group.every, q, k, v, **shape, scale=scale, sight=sight, prefix=prefix)
        else:
            short = gather(group)
            mx.eval(short)
            view(q)[group.every.slice] = view(short)
    return q


def _behind(prefix: mx.array, own: mx.array) -> mx.array:
    """prefix: (1, K, P, D), the same before each of own: (G, K, R, D). Returns (G, K, P + R, D)."""
    return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, sight: Sight, rows: Rows, host: bool
) -> mx.array:
    """Softmax attention of a group.

    queries: (G, N, Q, D), those of `rows`; keys, values: (G, K, S, D) with N a multiple of K, from the first
    token on. `host` takes the exponentials through NumPy. Returns (G, N, Q, D).
    """
    if host:
        return _in_blocks(queries * scale, keys, values, sight, rows)
    Q, S = queries.shape[2], keys.shape[2]
    mask: str | mx.array | None = "causal"  # the kernel's own, without an array; the last query is the last key's
    if sight.before is not None or sight.after != 0 or rows.positions.shape[0] > 1 or rows.positions[0, 0] + Q != S:
        mask = rows.kept_mask((sight, S), partial(_seen, sight, rows.positions, rows.keys, S))
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _seen(sight: Sight, positions: Ints, lengths: Ints, length: int) -> mx.array | None:
    hidden = sight.hidden(positions, lengths, 0, length)
    return None if hidden is None else mx.array(~hidden)


def _in_blocks(queries: mx.array, keys: mx.array, values: mx.array, sight: Sight, rows: Rows) -> mx.array:
    """The same from matrix products and a softmax. queries: (G, N, Q, D), scaled. Returns (G, N, Q, D)."""
    G, N, Q, D = queries.shape
    K, S = keys.shape[1], keys.shape[2]
    if Q > MAX_BLOCK:
        keys, values = mx.contiguous(keys), mx.contiguous(values)  # once, and not for every block
    block = max(1, min(Q, MAX_BLOCK, MAX_SCORE_BYTES // (4 * G * N * S)))
    outputs = []
    for start in range(0, Q, block):
        stop = min(start + block, Q)
        here = rows.positions[:, start:stop]
        first, last = sight.keys(here, S)
        # Heads that share keys are rows of one product: (G, K, N / K * block, D) @ (G, K, D, keys).
        asked = queries[:, :, start:stop].reshape(G, K, -1, D)
        scores = asked @ keys[:, :, first:last].swapaxes(2, 3)
        mask = rows.kept_mask((sight, start, stop), partial(added, sight, here, rows.keys, first, last))
        weights = softmax(scores.reshape(G, N, stop - start, -1), mask)
        mixed = weights.reshape(G, K, -1, last - first) @ values[:, :, first:last]
        if block < Q:
            mx.eval(mixed)  # otherwise the weights of every block would wait for the last
        outputs.append(mixed.reshape(G, N, stop - start, D))
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)
