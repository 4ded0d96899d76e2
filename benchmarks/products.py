"""How fast a framework multiplies bfloat16 matrices on the GPU: the limit that a model there is held against."""

from __future__ import annotations

import time

SIZE, TIMES = 8192, 20


def mlx_product_rate() -> float:
    """GFLOP/s of MLX's bfloat16 product of SIZE x SIZE on the default device."""
    import mlx.core as mx

    left = mx.random.normal((SIZE, SIZE)).astype(mx.bfloat16)
    mx.eval(left, left @ left)
    start = time.perf_counter()
    for _ in range(TIMES):
        mx.eval(left @ left)
    return 2 * SIZE**3 * TIMES / (time.perf_counter() - start) / 1e9


def torch_product_rate(device: str) -> float:
    """GFLOP/s of torch's bfloat16 product of SIZE x SIZE on "cuda" or "mps"."""
    import torch  # type: ignore[import-not-found]  # only in its environment

    synchronize = getattr(torch, device).synchronize
    left = torch.randn(SIZE, SIZE, device=device, dtype=torch.bfloat16)
    left @ left
    synchronize()
    start = time.perf_counter()
    for _ in range(TIMES):
        left @ left
    synchronize()
    return 2 * SIZE**3 * TIMES / (time.perf_counter() - start) / 1e9
