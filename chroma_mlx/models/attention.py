"""Attention shared by the architectures. On the MLX thread, but on a host (see host.py)."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from .batch import Batch, Group, Ints, KeysValues, Rows
from .host import Array
from .host_attention import attend_on_host
from .placing import Placing
from .sight import Sight


def attend(
    batch: Batch,
    q: Array,
    k: Array,
    v: Array,
    *,
    heads: int,
    key_heads: int,
    scale: float,
    sight: Sight,
    host: bool,
    last: bool,
    placing: tuple[Placing, Placing] | None = None,
    prefix: KeysValues | None = None,
) -> Array:
    """What each token gathers from its text, a group of texts at a time.

    q: (n, heads * D), of all tokens, or in the `last` layer of the wanted, as `batch.take` gives them; k, v:
    (T, key_heads * D). `placing` turns queries and keys into what is compared; the memory of both may be used up.
    `prefix` are this layer's keys and values before every text. Returns (n, heads * D).
    """
    if host:
        if placing is not None:
            placing[0].on_list(q, batch, last=last)
            placing[1].on_list(k, batch, last=False)
        shape = {"heads": heads, "key_heads": key_heads}
        attend_on_host(batch, q, k, v, **shape, scale=scale, sight=sight, last=last, prefix=prefix)
        return q

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
        merged: mx.array = rows.merge(attention(queries, keys, values, scale=scale, sight=sight, rows=rows))
        return merged

    parts = [gather(group) for group in batch.groups]
    if batch.spare and not (last and batch.wanted is not None):
        parts.append(mx.zeros((batch.spare, parts[0].shape[1]), dtype=parts[0].dtype))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def _behind(prefix: mx.array, own: mx.array) -> mx.array:
    """prefix: (1, K, P, D), the same before each of own: (G, K, R, D). Returns (G, K, P + R, D)."""
    return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, sight: Sight, rows: Rows
) -> mx.array:
    """Softmax attention of a group, by MLX's kernel.

    queries: (G, N, Q, D), those of `rows`; keys, values: (G, K, S, D) with N a multiple of K, from the first
    token on. Returns (G, N, Q, D).
    """
    Q, S = queries.shape[2], keys.shape[2]
    mask: str | mx.array | None = "causal"  # the kernel's own, without an array; the last query is the last key's
    if sight.before is not None or sight.after != 0 or rows.positions.shape[0] > 1 or rows.positions[0, 0] + Q != S:
        mask = rows.kept_mask((sight, S), partial(_seen, sight, rows.positions, rows.keys, S))
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _seen(sight: Sight, positions: Ints, lengths: Ints, length: int) -> mx.array | None:
    hidden = sight.hidden(positions, lengths, 0, length)
    return None if hidden is None else mx.array(~hidden)
