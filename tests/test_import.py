"""Importing the package is light and has no effects."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import chroma_mlx

ROOT = Path(chroma_mlx.__file__).parent.parent
HEAVY = ("mlx", "mlx_lm", "transformers", "torch", "huggingface_hub", "tokenizers", "tqdm", "rich")
# Of what importing Chroma takes, in the processor's time: so a slow machine, or a busy one, counts for little.
MOST_SHARE = 0.06
MOST_TRIES = 12
MEASURE = """
import json, logging, os, sys, threading, time
started = time.process_time()
import chromadb
chroma = time.process_time() - started
def state():
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    return {
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "environment": dict(os.environ),
        "handlers": sum(len(logger.handlers) for logger in loggers),
        "levels": {logger.name: logger.level for logger in loggers if logger.level},
        "threads": threading.active_count(),
    }
before = state()
started = time.process_time()
import chroma_mlx
share = (time.process_time() - started) / chroma
print(json.dumps({"before": before, "after": state(), "share": share}))
"""


def measure() -> dict[str, Any]:
    """What importing the package changes in a new process that has Chroma already."""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){MEASURE}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_importing_is_quick_and_changes_nothing_but_the_registry() -> None:
    found = measure()
    before, after = found["before"], found["after"]
    loaded = set(after.pop("modules")) - set(before.pop("modules"))
    assert not loaded & set(HEAVY), f"loads {sorted(loaded & set(HEAVY))}"
    assert after == before
    shares = [found["share"]]
    while min(shares) >= MOST_SHARE and len(shares) < MOST_TRIES:
        shares.append(measure()["share"])
    assert min(shares) < MOST_SHARE, f"takes {min(shares):.1%} of chromadb's own import, at best of {len(shares)}"


def test_all_is_sorted_and_complete() -> None:
    tree = ast.parse(inspect.getsource(chroma_mlx))
    imported = {
        alias.asname or alias.name
        # At the top, and below TYPE_CHECKING for what is imported when it is first asked for.
        for node in [*tree.body, *(each for branch in tree.body if isinstance(branch, ast.If) for each in branch.body)]
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert chroma_mlx.__all__ == sorted(chroma_mlx.__all__)
    assert set(chroma_mlx.__all__) == {name for name in imported if not name.startswith("_")} | {"__version__"}
    for name in chroma_mlx.__all__:
        assert hasattr(chroma_mlx, name)
    assert not hasattr(chroma_mlx, "NoSuchName")
