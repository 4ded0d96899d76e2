"""An embedding server for tests: the application in this process, and a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from chroma_mlx import EmbeddingConfig
from chroma_mlx.server.app import make_app
from chroma_mlx.server.options import Limits, ServerOptions

START_S = 60.0


def options(**others: Any) -> ServerOptions:
    """Of the built-in model; Limits' fields by their own names."""
    names = set(Limits.__dataclass_fields__)
    limits = Limits(**{name: value for name, value in others.items() if name in names})
    given = {"configs": (EmbeddingConfig(model_name="builtin"),), "limits": limits}
    return ServerOptions(**{**given, **{name: value for name, value in others.items() if name not in names}})


def client_of(given: ServerOptions) -> httpx.AsyncClient:
    """A client of an application with these options, in this process."""
    transport = httpx.ASGITransport(app=make_app(given))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@dataclass
class Served:
    """A server in a process of its own, and where it is."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tells it to stop; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(
    folder: Path,
    *arguments: str,
    model: str | None = "builtin",
    ready: bool = True,
    streams: bool = True,
    **environment: str,
) -> Iterator[Served]:
    """`chroma-mlx serve` on a free port, ready, or at least alive; `model` None is the configuration's.

    streams: whether it has standard streams.
    """
    port = free_port()
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--port", str(port), *arguments]
    command += [] if model is None else ["--model", model]
    command = command if streams else ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}, cwd=folder
        )
    served = Served(process, port, log)
    try:
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{served.url}/{'ready' if ready else 'health'}", timeout=5).is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        else:
            raise RuntimeError(f"the server did not become ready:\n{log.read_text()}")
        yield served
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
