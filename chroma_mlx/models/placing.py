"""What attention compares: heads normalised, and rotated to their positions. For its threads see host.py.

Shapes: T tokens, G texts of a group, R tokens in a row, N heads, D a head's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .batch import Batch, Rows
from .host import BLOCK, Floats, in_blocks, inverse_rms, view

Turns = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def place_both(queries: mx.array, keys: mx.array, *, eps: float, base: float, scale: float) -> tuple[Placing, Placing]:
    """What places queries and keys alike, each by the weight of its own norm, (D,)."""
    first, second = (Placing(weight=weight, eps=eps, base=base, scale=scale) for weight in (queries, keys))
    return first, second


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """An RMS norm of each head, and rotary positions: the first half of a head with its second.

    weight: (D,), the norm's; base and scale: those of the angles, scale * position / base ** (2 * i / D). MLX's
    kernels want heads in rows; a host does it on the list of tokens.
    """

    weight: mx.array
    eps: float
    base: float
    scale: float

    def on_list(self, x: Floats, batch: Batch, *, last: bool) -> None:
        """On a host. x: (T, N * D) of all tokens, or in the `last` layer of the wanted; written over."""
        turns = batch.kept_table((self.base, self.scale), self._turns)
        if last and batch.wanted is not None:
            cosines, sines = turns
            turns = cosines[batch.wanted], sines[batch.wanted]
        _place(x.reshape(len(x), -1, self.weight.size), view(self.weight), self.eps, turns)

    def on_rows(self, x: mx.array, rows: Rows) -> mx.array:
        """By MLX. x: (G, N, R, D) of `rows`. The same shape."""
        x = mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)
        width, scale = self.weight.size, self.scale
        offset = rows.offset if isinstance(rows.offset, int) else mx.array(rows.offset)
        return mx.fast.rope(x, width, traditional=False, base=self.base, scale=scale, offset=offset)

    def _turns(self, positions: npt.NDArray[np.int32]) -> Turns:
        """The cosines and sines of the angles at `positions`, (T,): each (T, D / 2)."""
        half = self.weight.size // 2
        # Rounded where the reference rounds: at position 30,000 an angle is known to 2e-3 in float32.
        steps = (self.scale / self.base ** (np.arange(half) / half)).astype(np.float32)
        angles = positions.astype(np.float32)[:, None] * steps
        return np.cos(angles), np.sin(angles)


def _place(heads: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], eps: float, turns: Turns) -> None:
    """Writes over heads, (T, N, D). weight: (D,); turns: (T, D / 2) each."""
    width = heads.shape[2]

    def job(tokens: slice) -> None:
        part = heads[tokens]
        part *= inverse_rms(part, eps)
        part *= weight
        first, second = part[:, :, : width // 2], part[:, :, width // 2 :]
        cosine, sine = (table[tokens, None] for table in turns)
        from_first, from_second = first * sine, second * sine
        first *= cosine
        first -= from_second
        second *= cosine
        second += from_first

    in_blocks(job, len(heads), max(1, BLOCK // heads[0].size))
