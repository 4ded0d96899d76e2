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

CALLS_FOR = {50: 1, 95: 20, 99: 100}  # a percentile of fewer would be the slowest call, or nearly
LONG_S = 5
LONGEST_ALONE_S = 60.0  # for the calls with one text each, of which the rest are then left out


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
    unasked_flops: int,
    pair_flops: int,
    causal: bool,
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
        planned = sum(work.lengths) if work.one_by_one else peer.planned(work.lengths)
        if planned / rate > longest_s and not write:
            figures = estimate(work, planned, rate)
        else:
            figures = timed(peer, work, (flops, unasked_flops), Path(vectors), write=write)
            figures |= with_attention(work, figures, pair_flops, causal=causal)
            if device != "gpu":
                figures["device_bytes"] = None
        results[work.name] = figures | with_many(peer, work, figures["computed_per_s"])
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


def timed(peer: Peer, work: Workload, flops: tuple[int, int], vectors: Path, write: bool) -> dict[str, Any]:
    """One workload: rates, memory, the latency of calls, and how much of the machine's matrix product it reaches.

    flops: of a token, and what of them is not computed for one of `peer.unasked`.
    """
    limit_before = peer.product_rate() or product_rate()
    gc.collect()
    forget_peak()
    before, parts, times = (peer.computed, peer.unasked, peer.places), [], []
    for call in [[text] for text in work.texts] if work.one_by_one else [work.texts]:
        start = time.perf_counter()
        parts.append(peer.embed(call, work.instruction))
        times.append(time.perf_counter() - start)
    memory = {"peak_bytes": peak_bytes(), "device_bytes": device_bytes()}
    after = (peer.computed, peer.unasked, peer.places)
    computed, unasked, places = (new - old for new, old in zip(after, before, strict=True))
    gflops = (limit_before + (peer.product_rate() or product_rate())) / 2
    calls = times if work.one_by_one else latencies(peer, work.alone)
    done = computed * flops[0] - unasked * flops[1]
    return {
        "estimated": False,
        **rates(work, computed, sum(times), places),
        **memory,
        "calls": len(calls),
        **{f"p{part}_ms": percentile(calls, part) * 1000 for part, least in CALLS_FOR.items() if len(calls) >= least},
        "gflops": gflops,
        "of_limit": done / sum(times) / 1e9 / gflops,
        "cosine": compare(np.concatenate(parts), vectors / f"{work.name}.npy", write=write),
    }


def with_attention(work: Workload, figures: dict[str, Any], pair_flops: int, *, causal: bool) -> dict[str, Any]:
    """The share of the limit with attention's own products counted too: those of the texts, without padding.

    pair_flops: what a token that sees another takes. Texts one a call are left out: a peer may compute their
    instruction once for all of them.
    """
    if work.one_by_one:
        return {}
    pairs = sum(length * (length + 1) // 2 if causal else length * length for length in work.lengths)
    attended = pairs * pair_flops / figures["seconds"] / 1e9 / figures["gflops"]
    return {"of_limit_with_attention": figures["of_limit"] + attended}


def latencies(peer: Peer, texts: list[str]) -> list[float]:
    """Seconds of a call with each text alone, as many as LONGEST_ALONE_S allows."""
    found: list[float] = []
    for text in texts:
        if sum(found) > LONGEST_ALONE_S:
            break
        found.append(seconds(partial(peer.embed, [text])))
    return found


def estimate(work: Workload, planned: int, rate: float) -> dict[str, Any]:
    """What a workload would take at `rate`, in computed tokens a second, measured on other texts."""
    return {"estimated": True, **rates(work, planned, planned / rate)}


def rates(work: Workload, computed: int, taken: float, places: int = 0) -> dict[str, Any]:
    """What was computed for a workload in so many seconds, and a second.

    Texts one a call have no rate in tokens: a peer may compute their instruction once for all of them, and then
    a token that it did not compute would count as fast. `places` are attention's, where they are counted.
    """
    tokens = sum(work.lengths)
    found: dict[str, Any] = {
        "texts": len(work.texts),
        "tokens": tokens,
        "computed": computed,
        "seconds": taken,
        "texts_per_s": len(work.texts) / taken,
        "computed_per_s": computed / taken,
    }
    if not work.one_by_one:
        found |= {"tokens_per_s": tokens / taken, "useful_of_computed": tokens / computed}
        found |= {"attention_places": places, "useful_of_places": tokens / places} if places else {}
    return found


def with_many(peer: Peer, work: Workload, rate: float) -> dict[str, Any]:
    """Of a peer that sorts: not measured but computed, from `rate` in computed tokens a second, for `work.many`."""
    if not (peer.sorts and work.many):
        return {}
    useful = sum(work.many) / peer.planned(work.many)
    return {"many_texts": len(work.many), "many_useful_of_computed": useful, "many_tokens_per_s": rate * useful}


def compare(found: Vectors, file: Path, *, write: bool) -> float:
    """The smallest cosine of a vector with ours in `file`, or with `write` 1 and the file. NaN counts as -1."""
    if write:
        np.save(file, found)
        return 1.0
    ours = np.load(file)[: len(found)]
    return float(np.nan_to_num((found * ours).sum(axis=1), nan=-1.0).min())


def forget_peak() -> None:
    """Begins the count of the most memory held anew: the GPU's, and the process's where Linux lets it do so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if mlx := sys.modules.get("mlx.core"):
        mlx.reset_peak_memory()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def device_bytes() -> int | None:
    """The most GPU memory that the framework held at once."""
    if mlx := sys.modules.get("mlx.core"):
        return int(mlx.get_peak_memory())
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_available() else None
