"""What every section needs: fresh processes, medians, and the machine that the figures belong to."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("chromadb", "mlx", "mlx-lm", "numpy", "scipy-openblas32", "tokenizers")
# Of NumPy's float32 product that is the limit: rows, inner, columns of a feed-forward layer of 1,024 tokens.
PRODUCT, PRODUCT_S = (1024, 1024, 3072), 2.0
ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Exit|Warning)\b")
SHOWN = ("model", "name", "kind", "folder", "count", "options")  # of a child's arguments, while it runs


class ChildFailed(SystemExit):
    """A fresh process ended with an error; `reason` is the line that names it."""

    def __init__(self, function: str, status: int, errors: str) -> None:
        lines = errors.strip().splitlines() or [f"exit status {status}"]
        self.reason = next((line for line in reversed(lines) if ERROR_LINE.match(line)), lines[-1])[:160]
        super().__init__(f"{errors}\n{function} failed with exit status {status}; its error is above.")


def in_child(function: str, *, python: str = sys.executable, project: bool = True, **arguments: Any) -> dict[str, Any]:
    """Runs `module.function` of this folder with `arguments` in a fresh process; returns what it returns.

    `python` is the interpreter of the environment it runs in, `project` whether this project is to be had there.
    Raises ChildFailed when it fails.
    """
    shown = {key: value for key, value in arguments.items() if key in SHOWN}
    print(f"{time.strftime('%H:%M:%S')} {function} {shown or ''}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [python, str(Path(__file__)), function, json.dumps(arguments)],
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ChildFailed(function, done.returncode, done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment(project: bool = True) -> dict[str, str]:
    """Of a fresh process: the project measured is the one that this folder belongs to, or with `project` false none.

    The Hub is not asked for anything: every model is a folder.
    """
    rest = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    rest |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**rest, "PYTHONPATH": os.pathsep.join(paths)} if project else rest


def at_least_one(text: str) -> int:
    """An option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def writable_file(text: str) -> Path:
    """An option that names a file to write: asked before anything is measured, which may take hours."""
    file = Path(text)
    if file.is_dir() or not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is {'a folder' if file.is_dir() else 'in no folder that is there'}")
    return file


def resident_bytes_of(process: int) -> int:
    """What a process and those that it started hold in memory; 0 where it ended."""
    import psutil  # which the environments of the peers have not

    try:
        first = psutil.Process(process)
        return sum(int(each.memory_info().rss) for each in (first, *first.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def medians(rounds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each key that all rounds have, the median over them; a value that is no number is the first round's."""
    rows = list(rounds)
    return {
        key: statistics.median(row[key] for row in rows) if isinstance(value, int | float) else value
        for key, value in rows[0].items()
        if all(key in row for row in rows)
    }


def spread(rounds: Iterable[Mapping[str, Any]], key: str) -> str:
    """The lowest and highest of the rounds, as `180 to 201`."""
    values = [row[key] for row in rounds]
    return f"{figure(min(values))} to {figure(max(values))}"


def figure(value: float) -> str:
    """Three digits of a number, or all before the point: 0.117, 4.62, 1,179."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@functools.cache
def commit() -> str:
    """The commit that is measured, with a + where files are changed since; "" outside of a checkout."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=HERE, capture_output=True, text=True
    )
    return found.stdout.strip()


def product_rate() -> float:
    """GFLOP/s of NumPy's float32 product of PRODUCT, the mean of PRODUCT_S seconds: a rate that lasts, as a run's."""
    import numpy as np

    rows, inner, columns = PRODUCT
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    found = left @ right
    times, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < PRODUCT_S:
        np.matmul(left, right, out=found)
        times += 1
    return 2 * rows * inner * columns * times / taken / 1e9


def resident_bytes() -> int | None:
    """What this process holds in memory now; None where the system does not say in /proc."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else None


def peak_bytes() -> int:
    """The most memory that this process has held at once.

    On Linux from /proc, since `ru_maxrss` there begins with what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": _gpu(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    if sys.platform == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    info = {name.strip(): value.strip() for name, _, value in pairs}
    name = info.get("model name", platform.machine())
    if "model" not in info:
        return name
    return f"{name} (family {info['cpu family']}, model {info['model']})"


def _gpu() -> str | None:
    """NVIDIA's name of the first GPU; None where there is none."""
    try:
        names = subprocess.check_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return names.splitlines()[0] if names else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _main() -> None:
    """In the fresh process: calls what is asked for and prints what it returns as the last line."""
    module, _, function = sys.argv[1].partition(".")
    result = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _main()
