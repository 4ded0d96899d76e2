"""The real client of the Hub, told to take a small Hub on loopback for the real one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import huggingface_hub
import pytest
from hub_server import HubServer
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

# The client writes in chunks, and keeps nothing of one that was cut: 10 MB, more than a small checkpoint has.
CHUNK: Final = 2**12


@contextmanager
def client_of(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The client in this process talks to `server`, with no token, and waits for nothing."""
    # It has read these from the environment when it was imported.
    use_endpoint(server.endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # the first of 0.x have none
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # It waits a second between attempts of its own.
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: None}))
    _close_sessions()
    yield
    _close_sessions()


def use_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for module in (constants, file_download):  # 0.x has it in both
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _close_sessions()  # 0.x looks when it makes one


def go_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _close_sessions()


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _close_sessions() -> None:
    # Before 1.0 the client has a session a thread, and another name for this.
    close = getattr(huggingface_hub, "close_session", None) or _http.reset_sessions
    close()
