"""The server under load: a steady rate, many callers against one, and twice what it can do.

    python benchmarks/load.py [--quick] [--only SECTION...] [--json FILE]

Needs h2load (`apt install nghttp2-client`, `brew install nghttp2`). Prints Markdown. The server is `chroma-mlx serve`
with the built-in model, on this machine, where the load is made too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import percentile, resident_bytes_of, writable_file

QUERY = "how do I read a file line by line [000001]"
STEADY_RATE, STEADY_CALLERS, STEADY_S = 50, 50, 600
CALLERS, CALLERS_S = 32, 30
OVER_S, MAX_QUEUE, MANY_CALLERS = 120, 256, 600
WARM_S = 5
# At a rate: seconds that are left out at the beginning, and how often a second connections are made until then.
RAMP_S, ROUNDS = 2, 200
# Longest that the tool may take beyond its time.
PATIENCE_S = 120


@dataclass(frozen=True)
class Served:
    """A server that is ready: its address, process and log."""

    url: str
    process: int
    log: Path

    @property
    def resident(self) -> int:
        """What it and the engine's process hold in memory, in bytes."""
        return resident_bytes_of(self.process)

    def cpu_s(self) -> dict[str, float]:
        """The CPU-seconds of it and of the engine's process until now."""
        server = psutil.Process(self.process)
        engine = server.children()
        return {"server": _cpu_s(server), "engine": sum(map(_cpu_s, engine))}

    def milliseconds(self, status: int) -> list[float]:
        """How long each request of a status took until now by the server's own log."""
        with self.log.open() as log:
            lines = [json.loads(line) for line in log if line.startswith("{") and line.endswith("}\n")]
        return [line["milliseconds"] for line in lines if line.get("status") == status and line["route"] == "/embed"]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def server(*arguments: str, **environment: str) -> Iterator[Served]:
    """A server, ready, for as long as the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", "builtin", "--port", str(port), *arguments]
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **environment})
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    if httpx.get(f"{url}/ready").is_success:
                        break
                except httpx.TransportError:
                    if process.poll() is not None:
                        raise SystemExit(f"The server ended with {process.returncode}.") from None
                time.sleep(0.1)
            yield Served(url, process.pid, Path(log.name))
        finally:
            process.terminate()
            process.wait()


def ask(served: Served, callers: int, seconds: float, *, rate: int | None = None) -> dict[str, Any]:
    """By h2load: so many connections, each asking when it has its answer, or with a `rate` all together so often.

    At a rate each asks in its turn, evenly spread, and what falls into its own wait for an answer right behind it: so
    many a second are asked whatever is answered. Of that the first seconds are left out. Milliseconds are from asking
    to the last byte, as a client sees it; `cores` are those that each process had busy, on average.
    """
    if rate is None:
        how = [f"-D{max(1, round(seconds))}"]
    else:
        at_once = max(1, round(rate / ROUNDS))  # connections that are made together
        how = ["-n", str(round(rate * (RAMP_S + seconds))), f"--rps={rate / callers}"]
        how += ["-r", str(at_once), f"--rate-period={max(1, round(1000 * at_once / rate))}ms"]
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body.json", Path(folder) / "log"
        body.write_text(json.dumps({"texts": [QUERY], "kind": "query"}))
        command = ["h2load", "--h1", "-t1", f"-c{callers}", *how, f"--data={body}", f"--log-file={log}"]
        before, ours, started = served.cpu_s(), resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command += ["--header=content-type: application/json", f"{served.url}/embed"]
        told = told_by(command, RAMP_S + seconds + PATIENCE_S)
        took = time.perf_counter() - started
        after, now = served.cpu_s(), resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = [[int(each) for each in line.split()[:3]] for line in log.read_text().splitlines()]
    if not rows:
        raise SystemExit(f"Nothing was answered.\n{told}")
    spent = {name: after[name] - before[name] for name in after}
    spent["h2load"] = now.ru_utime + now.ru_stime - ours.ru_utime - ours.ru_stime
    first = min(row[0] for row in rows) + (0 if rate is None else RAMP_S * 1_000_000)
    last = max(start + took for start, _, took in rows) if rate is None else first + seconds * 1_000_000
    by_status: dict[int, list[float]] = {}
    for start, status, microseconds in rows:
        if first <= start + microseconds <= last:
            by_status.setdefault(status, []).append(microseconds / 1000)
    measured = (last - first) / 1_000_000
    right, refused = by_status.get(200, []), by_status.get(503, [])
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (started|done|errored)", told)}
    under_way = callers if rate is None else 0  # when it ended
    lost = max(counts["errored"], counts["started"] - counts["done"] - under_way)
    return {
        "seconds": measured,
        "asked_per_s": sum(first <= row[0] <= last for row in rows) / measured,
        "answered": len(right),
        "per_s": len(right) / measured,
        "refused": len(refused),
        "lost": max(lost, sum(status not in (200, 503) for _, status, _ in rows)),
        "cores": {name: each / took for name, each in spent.items()},
        **percentiles(right),
        "refusal": percentiles(refused),
    }


def told_by(command: list[str], seconds: float) -> str:
    """What a tool prints; one that is not there, fails or takes longer ends the program with what is wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{command[0]} still waits for answers after {seconds:.0f} s.") from None
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not installed; benchmarks/README.md says what this needs.") from None
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{command[0]} failed; benchmarks/README.md says what this needs.")
    return done.stdout


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99, and the share under 10 ms; empty of none."""
    if not milliseconds:
        return {}
    fast = sum(each < 10 for each in milliseconds) / len(milliseconds)
    return {**{f"p{part}_ms": percentile(milliseconds, part) for part in (50, 95, 99)}, "under_10_ms": fast}


def steady(seconds: float) -> dict[str, Any]:
    """A steady rate; memory along the way."""
    with server() as served:
        ask(served, STEADY_CALLERS, WARM_S, rate=STEADY_RATE)
        held, done = [served.resident], threading.Event()

        def watch() -> None:
            while not done.wait(seconds / 20):
                held.append(served.resident)

        watching = threading.Thread(target=watch)
        watching.start()
        found = ask(served, STEADY_CALLERS, seconds, rate=STEADY_RATE)
        done.set()
        watching.join()
        return {**found, "resident": held}


def many(seconds: float) -> dict[str, Any]:
    """One caller after another, many at once, and many without gathering."""
    found = {}
    for name, callers, environment in (
        ("one", 1, {}),
        ("many", CALLERS, {}),
        ("many without gathering", CALLERS, {"CHROMA_MLX_BATCH_SIZE": "1"}),
    ):
        with server(**environment) as served:
            ask(served, callers, WARM_S)
            found[name] = ask(served, callers, seconds)
    return found


def overload(seconds: float) -> dict[str, Any]:
    """The most it can do, then twice as much, how it is right behind, and the most once more: machines drift."""
    with server("--max-queue", str(MAX_QUEUE)) as served:
        ask(served, CALLERS, WARM_S)
        # As many callers as may wait: the largest passes, and nobody refused.
        long = max(10.0, seconds / 4)
        most = ask(served, MAX_QUEUE, long)
        before = len(served.milliseconds(503))
        over = ask(served, MANY_CALLERS, seconds, rate=round(2 * most["per_s"]))
        in_log = percentiles(served.milliseconds(503)[before:])
        started = time.perf_counter()
        httpx.post(f"{served.url}/embed", json={"texts": ["right behind"]}, timeout=30).raise_for_status()
        recovered = time.perf_counter() - started
        again = ask(served, MAX_QUEUE, long)
    return {
        "most": most,
        "over": over,
        "refusal_in_log": in_log,
        "recovered_ms": recovered * 1000,
        "again": again,
        "of_most": 2 * over["per_s"] / (most["per_s"] + again["per_s"]),
    }


def describe_steady(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    held = found["resident"]
    return [
        f"{found['asked_per_s']:.1f} queries a second for {found['seconds']:.0f} s: {found['answered']:,} answered, "
        f"{found['refused']} refused, {found['lost']} lost; p50 {found['p50_ms']:.0f} ms, p95 "
        f"**{found['p95_ms']:.0f} ms**, p99 {found['p99_ms']:.0f} ms; resident {held[0] / 2**20:.0f} MiB at first, "
        f"{max(held) / 2**20:.0f} at most ({max(held[1:]) / held[0] - 1:+.1%}).",
        "",
    ]


def describe_many(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    rate = {name: each["per_s"] for name, each in found.items()}
    return [
        "| callers | requests/s | p50 | p95 | p99 |\n|---|---|---|---|---|",
        *(
            f"| {name} | {each['per_s']:,.0f} | {each['p50_ms']:.0f} ms | {each['p95_ms']:.0f} ms "
            f"| {each['p99_ms']:.0f} ms |"
            for name, each in found.items()
        ),
        "",
        f"{CALLERS} callers: **{rate['many'] / rate['one']:.1f} times** one in turn, "
        f"{rate['many'] / rate['many without gathering']:.1f} times without gathering.",
        "",
    ]


def _named(cores: dict[str, float]) -> str:
    return ", ".join(f"{name} {busy:.2f}" for name, busy in cores.items())


def describe_overload(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    most, over, again, in_log = found["most"], found["over"], found["again"], found["refusal_in_log"]
    if not in_log:
        raise SystemExit("Nothing was refused, so it was not overloaded: is something else busy on this machine?")
    return [
        f"Asked {over['asked_per_s']:,.0f} times a second by {MANY_CALLERS} connections, where {MAX_QUEUE} callers got "
        f"{most['per_s']:,.0f} before and {again['per_s']:,.0f} behind, with `--max-queue {MAX_QUEUE}`: "
        f"{over['per_s']:,.0f} a second answered (**{found['of_most']:.2f}** of the most, the mean of both), "
        f"{over['refused']:,} refused, {over['lost']} lost. Right behind, one request took "
        f"{found['recovered_ms']:.1f} ms.",
        "",
        "| | p50 | p95 | p99 | under 10 ms |\n|---|---|---|---|---|",
        *(
            f"| {name} | {each['p50_ms']:.1f} ms | {each['p95_ms']:.1f} ms | {each['p99_ms']:.1f} ms "
            f"| {each['under_10_ms']:.2%} |"
            for name, each in (
                ("a refusal, by the server's log", in_log),
                ("a refusal, as the client sees it", over["refusal"]),
                ("an answer, as the client sees it", over),
            )
        ),
        "",
        f"Cores busy: {_named(most['cores'])} where {MAX_QUEUE} callers asked, {_named(over['cores'])} beyond.",
        "",
    ]


DESCRIBE = {"steady": describe_steady, "many": describe_many, "overload": describe_overload}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: a look, not a result")
    parser.add_argument("--only", nargs="+", choices=DESCRIBE, default=list(DESCRIBE), help="some of it")
    parser.add_argument(
        "--json", type=writable_file, metavar="FILE", help="also write every figure to FILE, beside what it has"
    )
    options = parser.parse_args()
    part = 0.05 if options.quick else 1.0
    measure = {
        "steady": lambda: steady(STEADY_S * part),
        "many": lambda: many(max(5.0, CALLERS_S * part)),
        "overload": lambda: overload(max(10.0, OVER_S * part)),
    }
    for name in options.only:
        found = measure[name]()
        if options.json:
            known = json.loads(options.json.read_text()) if options.json.exists() else {}
            options.json.write_text(json.dumps({**known, name: found}, indent=1))
        print("\n".join(DESCRIBE[name](found)), flush=True)


if __name__ == "__main__":
    main()
