"""Apple's Embedding Atlas, run as the tool that it is: it draws a map's file in the browser, on this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..errors import ViewerError

TOOL: Final = "embedding-atlas"
HOST: Final = "127.0.0.1"
PORT: Final = 5055
OPTIONS: Final = ("--vector", "--neighbors", "--text", "--umap-metric", "--host", "--port")
# It imports torch before it says a word.
ANSWER_S: Final = 120.0
POLL_S: Final = 0.25
END_S: Final = 10.0


def find_tool() -> str:
    """The tool's path. Raises ViewerError when it is not there, or has not the options that are needed."""
    found = shutil.which(TOOL)
    if found is None:
        raise ViewerError(
            f"The map is drawn by Embedding Atlas, a program of its own ({TOOL}), which is not on the path. "
            f"`uv tool install {TOOL}` gets it; so does `pipx install {TOOL}`."
        )
    known = set(re.findall(r"--[a-z-]+", _ask(found, "--help")))
    if missing := [option for option in OPTIONS if option not in known]:
        version = re.search(r"\d+(?:\.\d+)+", _ask(found, "--version"))
        raise ViewerError(
            f"{found} is version {version[0] if version else 'unknown'}, which has no {', '.join(missing)}. "
            f"`uv tool upgrade {TOOL}`, or `pipx upgrade {TOOL}`, gets a newer one."
        )
    return found


def _ask(tool: str, option: str) -> str:
    try:
        return subprocess.run([tool, option], capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ViewerError(f"{tool} {option} failed ({error}). Install Embedding Atlas again.") from error


def find_port(wanted: int | None) -> int:
    """`wanted`; else the tool's own port, or any other that is free. Raises ViewerError when `wanted` is taken."""
    for port in [PORT, 0] if wanted is None else [wanted]:
        with socket.socket() as probe, suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise ViewerError(f"Port {wanted} of {HOST} cannot be listened on. Another program may have it: name another port.")


def command(tool: str, file: Path, *, text: str | None, space: str, port: int) -> list[str]:
    """The tool's command line for a map's file. `text` is the column of the texts, None where there is none."""
    return [
        tool,
        str(file),
        "--vector",
        "vector",
        "--neighbors",
        "neighbors",
        *(["--text", text] if text else []),
        "--umap-metric",
        "euclidean" if space == "l2" else "cosine",
        "--host",
        HOST,
        "--port",
        str(port),
    ]


def show(arguments: Sequence[str], *, port: int, browser: bool) -> None:
    """Runs the tool until it is interrupted; opens the browser once it listens. Raises ViewerError when it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # the vectors are there: nothing is to be asked for
    previous = signal.signal(signal.SIGTERM, _interrupt)
    process = subprocess.Popen(list(arguments), env=environment)
    try:
        while process.poll() is None and not _listens(port):
            time.sleep(POLL_S)
        if browser and process.poll() is None:
            webbrowser.open(f"http://{HOST}:{port}")
        status = process.wait()
    except KeyboardInterrupt:  # the terminal has told the tool, too
        return
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, previous)
    if status not in (0, -signal.SIGINT, 128 + signal.SIGINT):
        raise ViewerError(f"{arguments[0]} ended with status {status}; what it said stands above.")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(POLL_S)
        return probe.connect_ex((HOST, port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
