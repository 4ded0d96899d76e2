"""An encoder's work on NumPy's arrays: blocks on several threads, heads at their positions, products and norms."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_mlx.engine.mlx_thread import mlx_thread


def host(threads: int, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The module host, as on a machine with so many cores."""
    from chroma_mlx.models import host as module

    monkeypatch.setattr(module, "most_threads", lambda: threads)
    return module


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 1000])
def test_every_place_is_in_one_block(threads: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = np.zeros(length, dtype=int)

    def job(block: slice) -> None:
        seen[block] += 1

    mlx_thread.run(lambda: host(threads, monkeypatch).in_blocks(job, length, 8))
    assert (seen == 1).all()


def test_blocks_run_on_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=30)
    mlx_thread.run(lambda: host(3, monkeypatch).in_blocks(lambda block: together.wait(), 3, 1))


def test_a_block_does_its_own_blocks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[list[str]] = []
    together = threading.Barrier(3, timeout=30)

    def work() -> None:
        module = host(3, monkeypatch)

        def job(block: slice) -> None:
            together.wait()
            within: list[str] = []
            module.in_blocks(lambda inner: within.append(threading.current_thread().name), 4, 1)
            assert within == [threading.current_thread().name] * 4
            names.append(within)

        module.in_blocks(job, 3, 1)
        module.in_blocks(lambda block: together.wait(), 3, 1)  # behind it all threads again

    mlx_thread.run(work)
    assert len(names) == 3


def test_one_block_stays_on_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    mlx_thread.run(
        lambda: host(4, monkeypatch).in_blocks(lambda block: names.append(threading.current_thread().name), 5, 8)
    )
    assert names == ["chroma-mlx"]


def test_nobody_waits_for_a_core_that_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def work() -> list[int]:
        module = host(2, monkeypatch)
        for _ in range(10):  # more than there are helpers, whichever tests ran before
            module._jobs.put(free.wait)
        done: list[int] = []
        module.in_blocks(lambda block: done.append(block.start), 6, 1)
        return done

    try:
        assert mlx_thread.run(work) == [0, 1, 2, 3, 4, 5]
    finally:
        free.set()


def test_an_error_in_a_block_is_raised_when_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def job(block: slice) -> None:
        if block.start == 1:
            raise MemoryError("no room")
        done.append(block.start)

    with pytest.raises(MemoryError, match="no room"):
        mlx_thread.run(lambda: host(2, monkeypatch).in_blocks(job, 5, 1))
    assert sorted(done) == [0, 2, 3, 4]


@pytest.mark.parametrize(("base", "scale"), [(10_000.0, 1.0), (1_000_000.0, 0.25)])
@pytest.mark.parametrize("last", [False, True])
def test_heads_are_placed_on_the_list_as_in_rows(base: float, scale: float, last: bool) -> None:
    """Against MLX's own norm and rotation, over three texts, the longest of several blocks."""
    lengths, heads, width = [700, 3, 40], 4, 64

    def compare() -> float:
        import mlx.core as mx

        from chroma_mlx.models.batch import make_batch
        from chroma_mlx.models.placing import Placing

        wanted = np.array(lengths, dtype=np.int32) - 1
        chance = np.random.default_rng(0)
        weight = mx.array(chance.uniform(0.5, 2.0, width).astype(np.float32))
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            batch = make_batch([np.zeros(n, dtype=np.int32) for n in lengths], padding=0, wanted=wanted)
            count = len(lengths) if last else sum(lengths)
            x = mx.array(chance.standard_normal((count, heads * width)).astype(np.float32))
            placing = Placing(weight=weight, eps=1e-6, base=base, scale=scale)
            want = []
            for group in batch.groups:
                rows = group.wanted if last else group.every
                want.append(np.array(rows.merge(placing.on_rows(rows.heads(x, heads), rows))))
            got = np.array(x)
            placing.on_list(got, batch, last=last)
        return float(np.abs(got - np.concatenate(want)).max())

    worst = mlx_thread.run(compare)
    assert worst < 3e-4, f"differs by {worst:.1e}"  # MLX's angles of 700 are 1e-4 off in float32


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("own", [True, False], ids=["our library", "another"])
def test_a_product_is_numpys(own: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    x, weight, added = (chance.standard_normal(shape).astype(np.float32) for shape in ((13, 48), (20, 48), (20,)))

    def run() -> tuple[float, float]:
        from chroma_mlx.models import host
        from chroma_mlx.models.host import multiply

        if not own:
            monkeypatch.setattr(host, "own_product", lambda: None)
        want = x @ weight.T + (added if bias else 0)
        offset = added if bias else None
        in_pieces = multiply(np.repeat(x, 2, axis=1)[:, ::2], weight, offset)
        return float(np.abs(multiply(x, weight, offset) - want).max()), float(np.abs(in_pieces - want).max())

    whole, pieces = mlx_thread.run(run)
    assert whole < 1e-5, f"differs by {whole:.1e}"
    assert pieces < 1e-5, f"of an array in pieces differs by {pieces:.1e}"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1024, 3000), (8, 1030, 900), (13, 3072, 1030), (32, 1024, 513), (33, 1024, 999)])
def test_a_product_of_few_rows_is_cut_and_the_same(
    shape: tuple[int, int, int], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, summed, columns = shape
    chance = np.random.default_rng(0)
    x, weight, added = (
        chance.standard_normal(each).astype(np.float32) for each in ((rows, summed), (columns, summed), (columns,))
    )

    def run() -> float:
        from chroma_mlx.blas import product
        from chroma_mlx.models.host import multiply

        monkeypatch.setattr(product, "_has_uncopied", lambda: True)  # right on every machine, faster on some
        want = x.astype(np.float64) @ weight.T.astype(np.float64) + (added if bias else 0)
        return float(np.abs(multiply(x, weight, added if bias else None) - want).max())

    worst = mlx_thread.run(run)
    assert worst < 1e-3, f"differs by {worst:.1e}"


@pytest.mark.parametrize(
    ("rows", "columns", "summed", "piece"),
    [
        (8, 3072, 1024, 120),
        (32, 1024, 3072, 8),
        (33, 3072, 1024, 0),  # of many rows copying is the least part
        (8, 3072, 768, 0),
        (1, 300, 1024, 0),  # is not copied as it is
    ],
)
def test_pieces_are_as_large_as_go_without_copying(
    rows: int, columns: int, summed: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chroma_mlx.blas import product

    monkeypatch.setattr(product, "_has_uncopied", lambda: True)
    assert product.uncopied_columns(rows, columns, summed) == piece
    monkeypatch.setattr(product, "_has_uncopied", lambda: False)
    assert product.uncopied_columns(rows, columns, summed) == 0


@given(st.integers(1, 64), st.integers(1, 20_000), st.integers(1, 20_000))
def test_no_piece_is_copied_after_all(rows: int, columns: int, summed: int) -> None:
    from chroma_mlx.blas import product

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_has_uncopied", lambda: True)
        piece = product.uncopied_columns(rows, columns, summed)
    assert rows * piece <= 1_200
    assert rows * piece * summed <= 100**3


@pytest.mark.parametrize("norm", ["RMSNorm", "LayerNorm"])
def test_a_norm_through_numpy_is_mlxs(norm: str) -> None:
    def compare() -> float:
        import mlx.core as mx

        from chroma_mlx.models import norms
        from chroma_mlx.models.host import BLOCK

        chance = np.random.default_rng(0)
        x = (3 + chance.standard_normal((BLOCK // 48 + 5, 48))).astype(np.float32)  # of two blocks
        x[3] = 0.0
        given = [mx.array(chance.uniform(0.5, 2.0, 48).astype(np.float32)) for _ in range(1 + (norm == "LayerNorm"))]
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            on_host, on_gpu = (getattr(norms, norm)(*given, 1e-6, host=host) for host in (True, False))
            want = np.array(on_gpu(mx.array(x)))
        return float(np.abs(on_host(x) - want).max())

    worst = mlx_thread.run(compare)
    assert worst < 1e-5, f"differs by {worst:.1e}"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "first", [[0.0, 1.0], [20.0, 19.0], [20.5, 3.0], [-20.5, -30.0], [-200.0, -201.0], [300.0, 299.0]]
)
@pytest.mark.parametrize("second", [[0.0, 1.0], [-200.0, -201.0], [100.0, 99.0], [np.nan, 1.0]], ids=str)
def test_a_rows_softmax_does_not_depend_on_the_rows_beside_it(first: list[float], second: list[float]) -> None:
    def compute() -> Any:
        from chroma_mlx.models.host import exponentials

        weights = np.array([first, second], dtype=np.float32)
        weights /= exponentials(weights, None)
        return weights[0]

    exact = np.exp(np.float64(first) - max(first))
    np.testing.assert_allclose(mlx_thread.run(compute), exact / exact.sum(), rtol=2e-6)
