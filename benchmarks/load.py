"""The server under load, by autocannon (npm): a steady rate, many callers against one, and twice what it can do.

    npm install autocannon
    python benchmarks/load.py --autocannon node_modules/.bin/autocannon [--quick] [--json FILE]

Prints Markdown. The server is `chroma-mlx serve` with the built-in model, on this machine, where the load is made too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from common import percentile

QUERY = "how do I read a file line by line [<id>]"  # autocannon makes each its own
STEADY_RATE, STEADY_S = 50, 600
CALLERS, CALLERS_S = 32, 30
OVER_S, OVER_CONNECTIONS, MAX_QUEUE = 120, 1_000, 256
WARM_S = 5
PROBE_EVERY_S = 0.05


@contextmanager
def server(*arguments: str, **environment: str) -> Iterator[tuple[str, int]]:
    """(url, process id) of a server that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", "builtin", "--port", str(port), *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **environment})
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    if httpx.get(f"{url}/ready").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait()


def fire(tool: str, url: str, *, seconds: float, connections: int, rate: int | None = None) -> dict[str, Any]:
    """autocannon's own figures: requests a second, latencies in milliseconds, answers by status."""
    command = [tool, "--json", "--no-progress", "-d", str(seconds), "-c", str(connections), "-m", "POST", "-I"]
    command += ["-R", str(rate)] if rate else []
    command += ["-H", "content-type=application/json", "-b", json.dumps({"texts": [QUERY], "kind": "query"})]
    found = subprocess.run([*command, f"{url}/embed"], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(found.stdout)
    latency, statuses = figures["latency"], figures["statusCodeStats"]
    return {
        "right": figures["2xx"],
        "right_per_s": figures["2xx"] / figures["duration"],
        "statuses": {status: each["count"] for status, each in statuses.items()},
        "lost": figures["errors"] + figures["timeouts"],
        **{f"p{name}_ms": latency[key] for name, key in (("50", "p50"), ("97.5", "p97_5"), ("99", "p99"))},
        "longest_ms": latency["max"],
    }


def resident(process: int) -> int:
    """What a process holds in memory, in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def steady(tool: str, seconds: float) -> dict[str, Any]:
    """A steady rate; memory along the way."""
    with server() as (url, process):
        fire(tool, url, seconds=WARM_S, connections=10, rate=STEADY_RATE)
        held, done = [resident(process)], threading.Event()

        def watch() -> None:
            while not done.wait(seconds / 20):
                held.append(resident(process))

        watching = threading.Thread(target=watch)
        watching.start()
        found = fire(tool, url, seconds=seconds, connections=10, rate=STEADY_RATE)
        done.set()
        watching.join()
        return {**found, "seconds": seconds, "resident": held}


def many(tool: str, seconds: float) -> dict[str, Any]:
    """One caller after another, many at once, and many without gathering."""
    found = {}
    for name, callers, environment in (
        ("one", 1, {}),
        ("many", CALLERS, {}),
        ("many without gathering", CALLERS, {"CHROMA_MLX_BATCH_SIZE": "1"}),
    ):
        with server(**environment) as (url, _):
            fire(tool, url, seconds=WARM_S, connections=callers)
            found[name] = fire(tool, url, seconds=seconds, connections=callers)
    return found


def overload(tool: str, seconds: float) -> dict[str, Any]:
    """The most it can do, then twice as much, and a single caller before, meanwhile and right behind."""
    with server("--max-queue", str(MAX_QUEUE)) as (url, _):
        fire(tool, url, seconds=WARM_S, connections=CALLERS)
        most = fire(tool, url, seconds=max(10.0, seconds / 4), connections=CALLERS)
        refused, answered, done = list[float](), list[float](), threading.Event()

        def probe() -> None:
            with httpx.Client(base_url=url, timeout=30) as client:
                while not done.wait(PROBE_EVERY_S):
                    started = time.perf_counter()
                    status = client.post("/embed", json={"texts": ["a probe"]}).status_code
                    (refused if status == 503 else answered).append(time.perf_counter() - started)

        probing = threading.Thread(target=probe)
        probing.start()
        over = fire(tool, url, seconds=seconds, connections=OVER_CONNECTIONS, rate=round(2 * most["right_per_s"]))
        done.set()
        probing.join()
        started = time.perf_counter()
        httpx.post(f"{url}/embed", json={"texts": ["right behind"]}, timeout=30).raise_for_status()
        recovered = time.perf_counter() - started
        after = fire(tool, url, seconds=10, connections=CALLERS)
    probes = {"refused": len(refused), "answered": len(answered)}
    probes |= {f"refused_p{part}_ms": percentile(refused, part) * 1000 for part in (50, 99)} if refused else {}
    return {"most": most, "over": over, "probes": probes, "recovered_ms": recovered * 1000, "after": after}


def describe(found: dict[str, Any]) -> str:
    """All of it as Markdown."""
    s, m, o = found["steady"], found["many"], found["overload"]
    grown = max(s["resident"][1:]) / s["resident"][0] - 1
    offered = 2 * o["most"]["right_per_s"]
    return "\n".join(
        [
            f"{STEADY_RATE} queries a second for {s['seconds']:.0f} s: {s['right']:,} answered, "
            f"{sum(s['statuses'].values()) - s['right']} refused, {s['lost']} lost; p50 {s['p50_ms']} ms, p97.5 "
            f"**{s['p97.5_ms']} ms**, p99 {s['p99_ms']} ms; resident {s['resident'][0] / 2**20:.0f} MiB at first, "
            f"{max(s['resident']) / 2**20:.0f} at most ({grown:+.1%}).",
            "",
            "| callers | requests/s | p50 | p97.5 | p99 |\n|---|---|---|---|---|",
            *(
                f"| {name} | {each['right_per_s']:,.0f} | {each['p50_ms']} ms | {each['p97.5_ms']} ms "
                f"| {each['p99_ms']} ms |"
                for name, each in m.items()
            ),
            "",
            f"{CALLERS} callers: **{m['many']['right_per_s'] / m['one']['right_per_s']:.1f} times** one in turn, "
            f"{m['many']['right_per_s'] / m['many without gathering']['right_per_s']:.1f} times without gathering.",
            "",
            f"Offered {offered:,.0f} a second, twice the most it answered with {CALLERS} callers "
            f"({o['most']['right_per_s']:,.0f}), `--max-queue {MAX_QUEUE}`: {o['over']['right_per_s']:,.0f} a second "
            f"answered (**{o['over']['right_per_s'] / o['most']['right_per_s']:.2f}** of the most), by status "
            f"{o['over']['statuses']}, {o['over']['lost']} lost; a caller beside it: {o['probes']}. Right behind, one "
            f"request took {o['recovered_ms']:.1f} ms, and {CALLERS} callers got {o['after']['right_per_s']:,.0f} a "
            "second.",
        ]
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autocannon", default="autocannon", help="the command")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    options = parser.parse_args()
    part = 0.05 if options.quick else 1.0
    found = {
        "steady": steady(options.autocannon, STEADY_S * part),
        "many": many(options.autocannon, max(5.0, CALLERS_S * part)),
        "overload": overload(options.autocannon, max(5.0, OVER_S * part)),
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(describe(found))


if __name__ == "__main__":
    main()
