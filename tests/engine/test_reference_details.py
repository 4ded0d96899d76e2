"""Details in which an architecture is easily computed a little otherwise than the reference does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from small import CHECKPOINTS

from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.models.architecture import find_architecture

if TYPE_CHECKING:
    import mlx.core as mx


def test_gemmas_norms_are_computed_in_float32_and_rounded_once() -> None:
    """transformers: (x.float() * rsqrt(…) * (1.0 + weight.float())).type_as(x)."""

    def compute() -> tuple[Any, Any, float]:
        import mlx.core as mx

        from chroma_mlx.models.gemma3 import _read_norm

        stored = mx.full((256,), 0.0035, dtype=mx.bfloat16)  # bfloat16 rounds 1.0035 to 1
        weights: Any = SimpleNamespace(vector=lambda name: stored, host=False)
        config: Any = SimpleNamespace(rms_norm_eps=1e-6)
        x = mx.random.normal((8, 256), key=mx.random.key(0)).astype(mx.bfloat16)
        got = _read_norm(weights, "norm", config)(x)
        assert got.dtype == mx.bfloat16
        return np.array(x.astype(mx.float32)), np.array(got.astype(mx.float32)), stored.astype(mx.float32)[0].item()

    x, got, weight = mlx_thread.run(compute)
    want = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * (1.0 + weight)
    # One rounding to bfloat16 is at most 2**-8 of a value, up as often as down.
    worst = float(np.max(np.abs(got - want) / np.abs(want)))
    assert worst <= 2.0**-8, f"differs by {worst:.2e} of the value"
    bias = float(np.mean(got / want) - 1.0)
    assert abs(bias) < 5e-4, f"all values are off by {bias:.2e}"


def test_a_padding_token_in_an_xlm_roberta_text_takes_no_position() -> None:
    """transformers: padding_idx and the count of the tokens so far that are not padding; padding_idx for padding."""
    checkpoint = open_checkpoint(Path(CHECKPOINTS / "xlm-roberta"))
    pad = int(checkpoint.config["pad_token_id"])
    rows = [np.array(row, dtype=np.int32) for row in ([0, 5, pad, 6, 2], [0, 7, 8, 9, 2], [pad, 5, pad], [0, 3])]
    asked: list[Any] = []

    def compute() -> None:
        import mlx.core as mx

        from chroma_mlx.models.batch import make_batch
        from chroma_mlx.models.weights import Weights

        architecture = find_architecture(checkpoint.config)
        weights = Weights(checkpoint, dtype=mx.float32, dense=True, host=False, compiles=False)
        model: Any = architecture.Model(architecture.read_config(checkpoint.config), weights)
        positions = model.positions

        def note(places: mx.array) -> mx.array:
            asked.append(np.array(places))
            return positions(places)

        model.positions = note
        mx.eval(model(make_batch(rows, padding=0)))

    mlx_thread.run(compute)
    want = np.concatenate([np.cumsum(row != pad) * (row != pad) + pad for row in rows])
    np.testing.assert_array_equal(asked[0], want)
