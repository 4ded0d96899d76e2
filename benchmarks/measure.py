"""One peer on one model, in a fresh process of the peer's own environment. Imports nothing that it may lack."""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from adapters import Peer, Vectors, open_peer
from common import peak_bytes, percentile, product_rate, seconds
from workloads import Workload, read_workloads

PERCENTS = (50, 95, 99)
LONG_S = 5


def run(
    *,
    kind: str,
    folder: str,
    device: str,
    limit: int,
    options: dict[str, Any],
    texts: str,
    workloads: list[str],
    vectors: str,
    write: bool,
    flops: int,
    longest_s: float,
    probe: int,
    slow: bool,
) -> dict[str, Any]:
    """Loads the peer, compares `probe` short vectors with ours in the folder `vectors`, then times each workload.

    A workload that would take longer than `longest_s` is not run but estimated: for a `slow` peer from its
    rate on the short texts, and else on one of some 80 tokens, where fixed costs are small. With `write` all
    are run, and their vectors are those that later peers are compared with.
    """
    check, works = read_workloads(texts, workloads)
    start = time.perf_counter()
    peer = open_peer(kind, folder, device, limit, **options)
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    found = peer.embed(check[:probe])
    taken, shorts = time.perf_counter() - start, peer.computed
    cosine = compare(found, Path(vectors) / "check.npy", write=write)
    rate = shorts / taken
    if not slow or taken < LONG_S:  # else a cold start is no large part of it
        texts_of_rate = check[:probe] if slow else [" ".join(check)]
        rate = max(_rate(peer, texts_of_rate) for _ in range(2))
    results = {}
    for work in works:
        gc.collect()
        forget_peak()
        planned = sum(work.lengths) if work.one_by_one else peer.planned(work.lengths)
        if planned / rate > longest_s and not write:
            results[work.name] = estimate(work, planned, rate)
        else:
            results[work.name] = timed(peer, work, flops, Path(vectors), write=write)
        results[work.name]["peak_bytes"] = peak_bytes()
        results[work.name]["device_bytes"] = device_bytes() if device == "gpu" else None
    return {
        "load_s": load_s,
        "check_cosine": cosine,
        "check_tokens": shorts,
        "workloads": results,
    }


def _rate(peer: Peer, texts: list[str]) -> float:
    """Computed tokens a second of one call."""
    before = peer.computed
    taken = seconds(lambda: peer.embed(texts))
    return (peer.computed - before) / taken


def timed(peer: Peer, work: Workload, flops: int, vectors: Path, write: bool) -> dict[str, Any]:
    """One workload: rates, the latency of calls, and how much of the machine's matrix product it reaches."""
    limit_before = peer.product_rate() or product_rate()
    before, parts, times = peer.computed, [], []
    for call in [[text] for text in work.texts] if work.one_by_one else [work.texts]:
        start = time.perf_counter()
        parts.append(peer.embed(call, work.instruction))
        times.append(time.perf_counter() - start)
    computed, taken = peer.computed - before, sum(times)
    gflops = (limit_before + (peer.product_rate() or product_rate())) / 2
    alone = [] if work.one_by_one else work.texts[: work.singles]
    calls = times if work.one_by_one else [seconds(partial(peer.embed, [text])) for text in alone]
    tokens = sum(work.lengths)
    return {
        "estimated": False,
        "texts": len(work.texts),
        "tokens": tokens,
        "computed": computed,
        "useful_of_computed": tokens / computed,
        "seconds": taken,
        "texts_per_s": len(work.texts) / taken,
        "tokens_per_s": tokens / taken,
        "computed_per_s": computed / taken,
        "calls": len(calls),
        **{f"p{percent}_ms": percentile(calls, percent) * 1000 for percent in PERCENTS},
        "gflops": gflops,
        "of_limit": computed * flops / taken / 1e9 / gflops,
        "cosine": compare(np.concatenate(parts), vectors / f"{work.name}.npy", write=write),
    }


def estimate(work: Workload, planned: int, rate: float) -> dict[str, Any]:
    """What a workload would take at `rate`, in computed tokens a second, measured on other texts."""
    taken, tokens = planned / rate, sum(work.lengths)
    return {
        "estimated": True,
        "texts": len(work.texts),
        "tokens": tokens,
        "computed": planned,
        "useful_of_computed": tokens / planned,
        "seconds": taken,
        "texts_per_s": len(work.texts) / taken,
        "tokens_per_s": tokens / taken,
        "computed_per_s": rate,
    }


def compare(found: Vectors, file: Path, *, write: bool) -> float:
    """The smallest cosine of a vector with ours in `file`, or with `write` 1 and the file. NaN counts as -1."""
    if write:
        np.save(file, found)
        return 1.0
    ours = np.load(file)[: len(found)]
    return float(np.nan_to_num((found * ours).sum(axis=1), nan=-1.0).min())


def forget_peak() -> None:
    """Begins the count of the most memory held anew, where Linux lets a process do so; else it goes on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def device_bytes() -> int | None:
    """The most GPU memory that the framework held at once."""
    if mlx := sys.modules.get("mlx.core"):
        return int(mlx.get_peak_memory())
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_available() else None
