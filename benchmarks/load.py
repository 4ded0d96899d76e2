"""The server under load: a steady rate, many callers against one, and twice what it can do.

    npm install loadtest
    python benchmarks/load.py --loadtest . [--quick] [--json FILE]

Needs wrk too (`apt install wrk`, `brew install wrk`). Prints Markdown. The server is `chroma-mlx serve` with the
built-in model, on this machine, where the load is made too.
"""

from __future__ import annotations

import argparse
import json
import os
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

HERE = Path(__file__).parent
STEADY_RATE, STEADY_S = 50, 600
CALLERS, CALLERS_S = 32, 30
OVER_S, MAX_QUEUE, MANY_CALLERS = 120, 256, 600
WARM_S = 5


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


def told_by(command: list[str], **variables: str) -> str:
    """What a tool prints; one that is not there or fails ends the program with what is wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not installed; benchmarks/README.md says what this needs.") from None
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{command[0]} failed; benchmarks/README.md says what this needs.")
    return done.stdout


def ask(served: Served, callers: int, seconds: float, *, pause_s: float = 0.0) -> dict[str, Any]:
    """By wrk: so many callers, each asking when it has its answer, or `pause_s` later on average.

    `cores` are those that each process had busy, on average.
    """
    before, ours = served.cpu_s(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["wrk", "-t1", f"-c{callers}", f"-d{max(1, round(seconds))}s", "--timeout", "60s"]
    told = told_by([*command, "-s", str(HERE / "load.lua"), served.url], PAUSE_MS=str(pause_s * 1000))
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    after, now = served.cpu_s(), resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {name: after[name] - before[name] for name in after}
    spent["wrk"] = now.ru_utime + now.ru_stime - ours.ru_utime - ours.ru_stime
    cores = {name: each / found["seconds"] for name, each in spent.items()}
    return {**found, "per_s": found["answered"] / found["seconds"], "cores": cores}


def offer(folder: Path, served: Served, seconds: float, rate: int) -> dict[str, Any]:
    """By loadtest: so many requests a second, evenly spaced, whatever is answered."""
    command = ["node", str(HERE / "load.mjs"), str(folder.resolve()), f"{served.url}/embed", str(seconds), str(rate)]
    told = json.loads(told_by(command))
    by_status = told["milliseconds"]
    right = by_status.get("200", [])
    return {
        "answered": len(right),
        "per_s": len(right) / told["seconds"],
        "statuses": {status: len(each) for status, each in by_status.items()},
        **{f"p{part}_ms": percentile(right, part) for part in (50, 95, 99)},
    }


def steady(folder: Path, seconds: float) -> dict[str, Any]:
    """A steady rate; memory along the way."""
    with server() as served:
        offer(folder, served, WARM_S, STEADY_RATE)
        held, done = [served.resident], threading.Event()

        def watch() -> None:
            while not done.wait(seconds / 20):
                held.append(served.resident)

        watching = threading.Thread(target=watch)
        watching.start()
        found = offer(folder, served, seconds, STEADY_RATE)
        done.set()
        watching.join()
        return {**found, "seconds": seconds, "resident": held}


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
        # So long a pause that twice the most is asked, where half are refused at once, and half answered a third later
        # than the most were.
        pause = MANY_CALLERS / (2 * most["per_s"]) - 2 / 3 * most["p50_ms"] / 1000
        before = {status: len(served.milliseconds(status)) for status in (200, 503)}
        over = ask(served, MANY_CALLERS, seconds, pause_s=pause)
        took = {status: served.milliseconds(status)[count:] for status, count in before.items()}
        started = time.perf_counter()
        httpx.post(f"{served.url}/embed", json={"texts": ["right behind"]}, timeout=30).raise_for_status()
        recovered = time.perf_counter() - started
        again = ask(served, MAX_QUEUE, long)
    log = {
        status: {"requests": len(each), **{f"p{part}_ms": percentile(each, part) for part in (50, 95, 99)}}
        for status, each in took.items()
        if each
    }
    fast = sum(each < 10 for each in took[503]) / max(1, len(took[503]))
    return {
        "most": most,
        "over": {**over, "offered_per_s": (over["answered"] + over["refused"]) / over["seconds"]},
        "log": log,
        "under_10_ms": fast,
        "recovered_ms": recovered * 1000,
        "again": again,
        "of_most": 2 * over["per_s"] / (most["per_s"] + again["per_s"]),
    }


def describe_steady(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    held = found["resident"]
    lost = sum(count for status, count in found["statuses"].items() if status != "200")
    return [
        f"{STEADY_RATE} queries a second for {found['seconds']:.0f} s: {found['answered']:,} answered, {lost} not; p50 "
        f"{found['p50_ms']:.0f} ms, p95 **{found['p95_ms']:.0f} ms**, p99 {found['p99_ms']:.0f} ms; resident "
        f"{held[0] / 2**20:.0f} MiB at first, {max(held) / 2**20:.0f} at most ({max(held[1:]) / held[0] - 1:+.1%}).",
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
    most, over, answered, refused = found["most"], found["over"], found["log"].get(200), found["log"].get(503)
    if answered is None or refused is None:
        raise SystemExit("Nothing was refused, so it was not overloaded: is something else busy on this machine?")
    return [
        f"Offered {over['offered_per_s']:,.0f} a second by {MANY_CALLERS:,} connections, where {MAX_QUEUE} callers got "
        f"{most['per_s']:,.0f} before and {found['again']['per_s']:,.0f} behind, with `--max-queue {MAX_QUEUE}`: "
        f"{over['per_s']:,.0f} a second answered (**{found['of_most']:.2f}** of the most, the mean of both), "
        f"{over['refused']:,} refused, {over['lost']} lost. By the server's log a refusal took "
        f"{refused['p50_ms']:.1f} ms (p50) and {refused['p99_ms']:.1f} ms (p99), "
        f"{found['under_10_ms']:.2%} under 10 ms, and an answer {answered['p50_ms']:.0f} ms (p50) and "
        f"{answered['p99_ms']:.0f} ms (p99). Right behind, one request took {found['recovered_ms']:.1f} ms. "
        f"Cores busy: {_named(most['cores'])} where {MAX_QUEUE} callers asked, {_named(over['cores'])} beyond.",
        "",
    ]


DESCRIBE = {"steady": describe_steady, "many": describe_many, "overload": describe_overload}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loadtest", type=Path, default=Path(), metavar="FOLDER", help="where npm installed loadtest")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: a look, not a result")
    parser.add_argument("--only", nargs="+", choices=DESCRIBE, default=list(DESCRIBE), help="some of it")
    parser.add_argument(
        "--json", type=writable_file, metavar="FILE", help="also write every figure to FILE, beside what it has"
    )
    options = parser.parse_args()
    part = 0.05 if options.quick else 1.0
    measure = {
        "steady": lambda: steady(options.loadtest, STEADY_S * part),
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
