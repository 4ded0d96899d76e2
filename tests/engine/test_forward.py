"""Texts in parts that several threads take through the layers at once: the same vectors as all together."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_mlx.blas import load_fast_blas
from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.engine.network import LocalNetwork, load_network
from chroma_mlx.errors import EngineError
from chroma_mlx.models import groups
from chroma_mlx.models.groups import plan_parts

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
SAME = 1e-6
LENGTHS = (40, 39, 31, 12, 3, 33, 4, 8, 8, 27)


def network_of(folder: Path, threads: int) -> LocalNetwork:
    """A network on a host."""
    if sys.platform == "darwin":
        pytest.skip("on a Mac layers give MLX's arrays, which are the MLX thread's alone")
    network = mlx_thread.run(load_network, open_checkpoint(folder), "cpu")
    object.__setattr__(network, "threads", threads)
    return network


def furthest(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Between vectors of unit length."""
    return float(
        np.abs(np.subtract(*(each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other)))).max()
    )


def rows_of(lengths: tuple[int, ...], prompt: int = 0) -> list[npt.NDArray[np.int32]]:
    chance = np.random.default_rng(0)
    before = np.arange(60, 60 + prompt, dtype=np.int32)
    return [np.concatenate([before, chance.integers(5, 250, n).astype(np.int32)]) for n in lengths]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts of some 40 tokens, on threads of their own; the names of those that took one."""
    mlx_thread.run(load_fast_blas)
    from chroma_mlx.models import host

    monkeypatch.setattr(groups, "PART_TOKENS", 40)
    monkeypatch.setattr(groups, "LEAST_TOKENS", 20)
    monkeypatch.setattr(groups, "LONGEST", 2.0)
    monkeypatch.setattr(host, "most_threads", lambda: 3)
    names: list[str] = []
    blocks = host.in_blocks

    def noted(job: Any, length: int, step: int) -> None:
        together = threading.Barrier(3, timeout=30)

        def run(block: slice) -> None:
            if block.start < 3:
                together.wait()  # so that each thread takes one
            names.append(threading.current_thread().name)
            job(block)

        blocks(run, length, step)

    monkeypatch.setattr("chroma_mlx.engine.forward.in_blocks", noted)
    return names


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
@pytest.mark.parametrize(
    "name", ["official-float32", "mlx-4bit", "sliding-window", "gemma-official", "bert-cls", "xlm-roberta", "builtin"]
)
def test_parts_give_what_all_texts_give(name: str, pooling: str, small_parts: list[str]) -> None:
    folder = BUILTIN_FOLDER if name == "builtin" else CHECKPOINTS / name
    rows = rows_of(LENGTHS)
    found = [mlx_thread.run(network_of(folder, n).embed, rows, pooling=pooling, skip=2) for n in (1, 3)]
    worst = furthest(*found)
    assert worst < SAME, f"differs by {worst:.1e}"
    assert "chroma-mlx-host" in small_parts


def test_parts_stand_behind_one_prefix(small_parts: list[str]) -> None:
    rows, prompt = rows_of(LENGTHS, prompt=9), np.arange(60, 69, dtype=np.int32)
    found = [
        mlx_thread.run(network_of(CHECKPOINTS / "official-float32", n).embed, rows, pooling="last", skip=0, prompt=each)
        for n, each in ((1, None), (3, prompt))
    ]
    worst = furthest(*found)
    assert worst < SAME, f"differs by {worst:.1e}"
    assert "chroma-mlx-host" in small_parts


def test_an_error_of_a_part_is_that_of_the_pass(small_parts: list[str]) -> None:
    network = network_of(BUILTIN_FOLDER, 3)
    rows = rows_of(LENGTHS)
    inner: Any = network.encoder

    class Failing:
        causal, embed = False, staticmethod(inner.embed)

        def __call__(self, batch: Any, x: Any = None) -> Any:
            if batch.positions.max() < 5:
                raise RuntimeError("no memory")
            return inner(batch, x)

    object.__setattr__(network, "encoder", Failing())
    rows += rows_of((3,) * 40)  # parts of short ones
    with pytest.raises(EngineError, match="no memory"):
        mlx_thread.run(network.embed, rows, pooling="mean", skip=0)


@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=200), st.integers(1, 8))
def test_every_text_is_in_one_part_and_no_thread_is_left_behind(lengths: list[int], threads: int) -> None:
    counts = np.array(lengths, dtype=np.int32)
    parts = plan_parts(counts, threads)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert all(len(part) for part in parts)
    if len(parts) > 1:
        busy = [0] * threads
        for part in parts:
            assert (np.diff(counts[part]) <= 0).all(), "the longest first"
            busy[busy.index(min(busy))] += int(counts[part].sum())
        assert max(busy) * threads <= groups.LONGEST * sum(lengths)


@pytest.mark.parametrize(
    ("lengths", "threads", "parts"),
    [
        ((12,) * 8, 2, 1),  # too little work
        ((512,) * 2, 2, 2),
        ((256,) * 4, 2, 2),
        ((40,) * 26, 2, 2),
        ((40,) * 52, 2, 4),
        ((1500, 100, 100), 2, 1),  # one would wait for the other
        ((600, 600, 600), 2, 1),
        ((40,) * 26, 1, 1),
        ((40,) * 26, 4, 4),
    ],
)
def test_parts_are_as_many_as_keep_the_threads_busy(lengths: tuple[int, ...], threads: int, parts: int) -> None:
    assert len(plan_parts(np.array(lengths, dtype=np.int32), threads)) == parts
