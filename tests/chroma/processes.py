"""Other processes of this environment, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from chromadb.config import Settings

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0


def quiet() -> Settings:
    return Settings(anonymized_telemetry=False)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, for one that must find the same packages."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "ANONYMIZED_TELEMETRY": "False", **changes}


def start_python(code: str, *args: str) -> subprocess.Popen[str]:
    """Starts a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(code: str, *args: str) -> tuple[int, str, str]:
    """Runs a script to its end: its exit code, output and errors."""
    process = start_python(code, *args)
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return process.returncode, output, errors


def answer(code: str, *args: str) -> Any:
    """The JSON that a script prints last; it must end well and without a word on stderr."""
    exit_code, output, errors = run_python(code, *args)
    assert (exit_code, errors) == (0, ""), errors
    return json.loads(output.splitlines()[-1])
