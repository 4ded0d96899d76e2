"""The activations in their forms: by MLX, through NumPy, compiled."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from chroma_mlx.engine.mlx_thread import mlx_thread


@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_gelu_through_numpy_is_that_of_mlx(form: str) -> None:
    def compare() -> tuple[float, float]:
        import mlx.core as mx

        from chroma_mlx.models.activations import gelu, host_geglu, host_gelu
        from chroma_mlx.models.host import BLOCK

        ends = [0.0, -0.0, 1e-30, 90.0, -90.0]
        x = np.concatenate([np.linspace(-30, 30, BLOCK + 77), ends]).astype(np.float32)
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            want = np.array(gelu(mx.array(x), form))
            got = host_gelu(x.copy(), form)
            gated = host_geglu(x.copy(), x) if form == "tanh" else got * x
        return float(np.abs(got - want).max()), float(np.abs(gated - want * x).max())

    worst, gated = mlx_thread.run(compare)
    assert worst < 2e-6, f"differs by {worst:.1e}"
    assert gated < 2e-4, f"gated differs by {gated:.1e}"  # of products up to 900


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_gelu_of_large_values_is_they_or_zero_without_a_warning(form: str) -> None:
    x = np.array([1e4, 6e3, 1e15, 3e38, -1e4, -6e3, -1e15, -3e38], dtype=np.float32)

    def compute() -> Any:
        from chroma_mlx.models.activations import host_gelu

        return host_gelu(x.copy(), form)

    np.testing.assert_array_equal(mlx_thread.run(compute), np.maximum(x, 0.0))


def test_swiglu_through_numpy_is_that_of_mlx() -> None:
    def compare() -> float:
        import mlx.core as mx

        from chroma_mlx.models.activations import host_swiglu, swiglu
        from chroma_mlx.models.host import BLOCK

        x = np.concatenate([np.linspace(-200, 200, 2 * BLOCK + 77), [0.0, -0.0, 1e-30]]).astype(np.float32)
        up = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            want = np.array(swiglu(mx.array(x), mx.array(up)))
            got = host_swiglu(x.copy(), up)
        return float(np.abs(got - want).max())

    worst = mlx_thread.run(compare)
    assert worst < 1e-4, f"differs by {worst:.1e}"  # of products up to 800


@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU MLX compiles with g++")
@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_a_compiled_activation_is_the_plain_one_in_every_shape_and_compiled_once(name: str) -> None:
    def compare() -> float:
        import mlx.core as mx

        from chroma_mlx.models import activations

        traced: list[tuple[int, ...]] = []
        plain = getattr(activations, name)

        def traceable(gate: mx.array, up: mx.array) -> mx.array:
            traced.append(gate.shape)
            result: mx.array = plain(gate, up)
            return result

        compiled, worst = activations._compiled(traceable), 0.0
        rng = np.random.default_rng(0)
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            for shape in ((1, 8), (5, 8), (300, 48), (2, 48)):
                gate, up = (mx.array(rng.standard_normal(shape).astype(np.float32)) for _ in range(2))
                worst = max(worst, float(mx.abs(compiled(gate, up) - plain(gate, up)).max()))
        assert len(traced) == 1, traced
        return worst

    worst = mlx_thread.run(compare)
    assert worst < 1e-6, f"differs by {worst:.1e}"
