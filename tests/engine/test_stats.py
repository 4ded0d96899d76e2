"""What is counted of the engine: by hand, and of a real model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import pytest
from small import read_texts, write_checkpoint

from chroma_mlx import EmbeddingRouter, MLXEmbeddingFunction
from chroma_mlx.engine.counts import Counts, Distribution, padded_share
from chroma_mlx.engine.encoder import Encoder, scheduler
from chroma_mlx.engine.network import LocalNetwork
from chroma_mlx.engine.scheduler import Pass
from chroma_mlx.engine.stats import take_stats
from chroma_mlx.errors import DeadlineExceeded, InputError, QueueFull
from chroma_mlx.metrics import register
from chroma_mlx.settings import MachineSettings, VectorSettings


def test_a_distribution_in_buckets_and_percentiles() -> None:
    made = Distribution((1.0, 10.0))
    assert made.percentiles().count == 0
    for value in (0.5, 1.0, 1.5, 10.0, 99.0):
        made.add(value)
    assert made.cumulative() == [("1.0", 2.0), ("10.0", 4.0), ("+Inf", 5.0)]
    found = made.percentiles()
    assert (found.count, found.mean, found.p50, found.p95, found.p99) == (5, 22.4, 1.5, 99.0, 99.0)


def test_percentiles_are_of_the_last_values_and_the_mean_of_all() -> None:
    made = Distribution((1.0,))
    for value in [100.0] * 5_000 + [1.0] * 4_096:
        made.add(value)
    found = made.percentiles()
    assert (found.count, found.p50, found.p99) == (9_096, 1.0, 1.0)
    assert found.mean == pytest.approx((500_000 + 4_096) / 9_096)


def passed(*lengths: int, padding: int = 16) -> Pass:
    return Pass(
        kind="query",
        lengths=lengths,
        tokens=sum(lengths),
        padding=padding,
        compute_s=0.5,
        waited_s=(0.1,),
        failed=False,
    )


def test_padding_is_that_of_attentions_rows() -> None:
    assert padded_share(passed(10, 10)) == 0.0
    assert padded_share(passed(10, 6)) == pytest.approx(4 / 20)
    assert padded_share(passed(100, 10)) == 0.0, "too much, so each has rows of its own"


def test_numbers_are_a_copy() -> None:
    counts = Counts()
    counts.add_pass(passed(10, 6))
    before = counts.numbers()
    counts.add_pass(passed(4))
    counts.add_error(ValueError("a"))
    assert sum(before.pass_texts.counts) == 1
    assert sum(counts.numbers().pass_texts.counts) == 2
    assert counts.numbers().errors == {"ValueError": 1}


def test_a_call_is_counted_with_what_it_was(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    router = EmbeddingRouter(
        model_name=str(folder),
        max_tokens=8,
        query_instruction="",
        embedding_cache=str(tmp_path / "vectors"),
        device="cpu",
        batch_size=2,
    )
    before = router.stats()
    router.embed(["a", "b", "a long text, longer than eight tokens", "a"])
    router.embed(["a"], kind="query")
    router.embed(["b"])
    with pytest.raises(InputError):
        router.embed([""" \ud800"""])
    after = router.stats()
    assert after.texts["document"] - before.texts["document"] == 5
    assert after.texts["query"] - before.texts["query"] == 1
    assert after.truncated - before.truncated == 1
    assert after.cached - before.cached == 2, "a query without an instruction, and b"
    assert after.errors["InputError"] - before.errors.get("InputError", 0) == 1
    assert after.batches - before.batches == 2
    assert after.tokens > before.tokens
    assert after.load_s[str(folder)] > 0
    assert (after.queue_texts, after.queue_tokens) == (0, 0)
    assert after.weights_bytes > 0
    assert after.active_bytes > 0
    assert after.call_s.p99 is not None
    json.dumps(asdict(after))


def test_prometheus_reads_the_same() -> None:
    MLXEmbeddingFunction("builtin").encode(["a", "b"])
    registry = prometheus_client.CollectorRegistry()
    register(registry)
    page = prometheus_client.generate_latest(registry).decode()
    stats = take_stats()
    assert f"chroma_mlx_batches_total {float(stats.batches)}" in page
    assert f'chroma_mlx_texts_total{{kind="document"}} {float(stats.texts["document"])}' in page
    assert f"chroma_mlx_batch_texts_count {float(stats.batches)}" in page
    assert 'chroma_mlx_batch_texts_bucket{le="+Inf"}' in page
    assert 'chroma_mlx_model_load_seconds{model="builtin"}' in page


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ValueError, match=r"pip install 'chroma-mlx\[metrics\]'"):
        register()


def builtin(**machine: Any) -> Encoder:
    return Encoder(VectorSettings(model_name="builtin"), MachineSettings(show_progress=False, **machine))


def test_calls_of_many_threads_share_passes_and_each_gets_its_own_vectors() -> None:
    encoder, texts = builtin(), read_texts()[:16]
    want = encoder.encode(texts, "document")
    before = take_stats().batches
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: encoder.encode([text], "document"), texts * 20))
    for place, vector in enumerate(found):
        np.testing.assert_allclose(vector[0], want[place % len(texts)], atol=2e-6)
    assert take_stats().batches - before < 200, "320 calls alone would take as many passes"


async def test_awaited_calls_share_passes_and_leave_the_loop_free() -> None:
    encoder, texts, turns = builtin(), read_texts()[:16], 0
    want = encoder.encode(texts, "document")
    before = take_stats().batches

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    found = await asyncio.gather(*(encoder.aembed([text], "document") for text in texts * 20))
    assert take_stats().batches - before < 200, "320 calls alone would take as many passes"
    watching = asyncio.ensure_future(watch())
    large = await encoder.aembed(texts * 4, "document")
    watching.cancel()
    assert turns > 20, "the loop went on meanwhile"
    for place, each in enumerate(found):
        np.testing.assert_allclose(each.vectors[0], want[place % len(texts)], atol=2e-6)
    np.testing.assert_allclose(large.vectors[:16], want, atol=2e-6)


async def test_a_cancelled_call_takes_its_waiting_texts_along(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, hold, ran = builtin(batch_size=1, batch_timeout_ms=0), threading.Event(), 0
    embed = LocalNetwork.embed

    def held(self: LocalNetwork, rows: Any, **others: Any) -> Any:
        nonlocal ran
        ran += 1
        assert hold.wait(60)
        return embed(self, rows, **others)

    encoder.load()
    monkeypatch.setattr(LocalNetwork, "embed", held)
    small = [asyncio.ensure_future(encoder.aembed([f"text {number}"], "document")) for number in range(5)]
    large = asyncio.ensure_future(encoder.aembed([f"large {number} " * 100 for number in range(20)], "document"))
    while scheduler.depth[0] < 5 or not ran:
        await asyncio.sleep(0.001)
    for task in (*small[1:], large):
        task.cancel()
    await asyncio.wait({*small[1:], large})
    assert scheduler.depth == (0, 0)
    hold.set()
    assert (await small[0]).vectors.shape == (1, 256)
    assert ran == 1


async def test_a_full_queue_is_told_to_an_awaited_call_and_a_waiting_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    hold, embed = threading.Event(), LocalNetwork.embed

    def held(self: LocalNetwork, rows: Any, **others: Any) -> Any:
        assert hold.wait(60)
        return embed(self, rows, **others)

    patient = builtin(batch_size=1, max_queue=2)
    patient.load()
    monkeypatch.setattr(LocalNetwork, "embed", held)
    first = [asyncio.ensure_future(patient.aembed([f"text {number}"], "document")) for number in range(3)]
    while scheduler.depth[0] < 2:
        await asyncio.sleep(0.001)
    with pytest.raises(QueueFull, match="2 texts wait"):
        await builtin(max_queue=2, queue_policy="fail_fast").aembed(["one more"], "document")
    waits = asyncio.ensure_future(patient.aembed(["one more"], "document"))
    with pytest.raises(DeadlineExceeded):
        await patient.aembed(["no time"], "document", timeout_s=0.01)
    hold.set()
    assert (await waits).vectors.shape == (1, 256)
    await asyncio.gather(*first)


async def test_an_awaited_call_of_several_batches_is_not_refused_halfway() -> None:
    encoder = builtin(batch_size=2, max_queue=4, queue_policy="fail_fast")
    encoder.load()
    texts = [f"text {number}" for number in range(40)]
    found = await encoder.aembed(texts, "document")
    np.testing.assert_allclose(found.vectors, builtin().encode(texts, "document"), atol=2e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_an_awaited_call_in_a_forked_child_says_what_is_wrong(tmp_path: Path) -> None:
    script = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.errors import ForkedProcess
function = MLXEmbeddingFunction("builtin")
asyncio.run(function.aembed(["a " * 5000]))
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    asyncio.run(asyncio.wait_for(function.aembed(["b " * 5000]), 30))
except ForkedProcess:
    os._exit(7)
os._exit(8)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert found.returncode == 7, found.stderr


def test_a_call_at_exit_after_the_engine_stopped_ends_with_an_error(tmp_path: Path) -> None:
    script = """
import atexit
from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.errors import EngineError
function = MLXEmbeddingFunction("builtin")
def late():  # handlers run last in, first out: the engine's own, which came later, has stopped it
    try:
        function.encode(["a"])
    except EngineError:
        print("told")
atexit.register(late)
function.encode(["a"])
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.stdout == "told\n", found.stderr


def test_no_thread_keeps_the_process_from_its_end(tmp_path: Path) -> None:
    script = """
import asyncio
from chroma_mlx import MLXEmbeddingFunction
function = MLXEmbeddingFunction("builtin")
async def main():
    tasks = [asyncio.ensure_future(function.aembed([f"text {n} " * 500])) for n in range(50)]
    await tasks[0]
    raise SystemExit(7)
asyncio.run(main())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 7, found.stderr
    assert "Traceback" not in found.stderr
