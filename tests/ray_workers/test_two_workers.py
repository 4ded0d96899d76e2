"""`chroma-mlx ingest --ray` with two real workers and a real `chroma run`: the same as one process makes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chromadb
import psutil
import pytest
from chromadb.config import Settings
from ingested import contents, numbered, write_jsonl

from chroma_mlx import ingest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
RECORDS = 2_000
# Blocks of a few documents, so that a kill falls between some.
START = """
import sys
from chroma_mlx.cli import main
from chroma_mlx.ray import crew
crew.DOCUMENTS_A_BLOCK = 25
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def mock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of 8 dimensions, of no model."""
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    monkeypatch.setenv("CHROMA_MLX_DIMENSION", "8")


class Command:
    """`chroma-mlx ingest --ray` in a process of its own."""

    def __init__(self, source: Path, collection: str, port: int, *options: str, start: str = START) -> None:
        arguments = ["ingest", str(source), "--collection", collection, "--host", "127.0.0.1", "--port", str(port)]
        arguments += ["--ray", "--workers", "2", "--id-column", "id", "--passage-tokens", "60", "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, *arguments],
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def workers(self) -> list[psutil.Process]:
        """The processes of its workers, as Ray names them."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in below if each.name().startswith("ray::Worker") or "ray::Worker" in _title(each)]

    def end(self, *, status: int = 0) -> dict[str, Any]:
        """The summary."""
        printed, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == status, errors
        found: dict[str, Any] = json.loads(printed)
        return found


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def await_that(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def client_of(port: int) -> Any:
    return chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))


def count(client: Any, collection: str) -> int:
    try:
        return int(client.get_collection(collection).count())
    except chromadb.errors.NotFoundError:
        return 0


def rows(records: int) -> list[dict[str, Any]]:
    """Records, some of several passages, some that will be refused."""
    found: list[Any] = numbered(records)
    for number in range(0, records, 50):
        found[number]["text"] *= 40
    return [*found, {"id": "r7", "text": "An id that is taken."}, "no JSON"]


def alone(source: Path, client: Any, **options: Any) -> Any:
    """What one process makes of it."""
    return ingest(source, "alone", client=client, id_column="id", passage_tokens=60, **options)


@posix
def test_a_worker_that_is_killed_in_the_middle_loses_nothing(port: int, tmp_path: Path) -> None:
    source, client = write_jsonl(tmp_path / "records.jsonl", rows(RECORDS)), client_of(port)
    expected = alone(source, client)
    command = Command(source, "killed", port)
    await_that(lambda: count(client, "killed") > RECORDS // 5, "a part is written")
    [first, *_] = command.workers()
    first.send_signal(signal.SIGKILL)
    there = count(client, "killed")
    summary = command.end(status=3)
    assert RECORDS // 5 < there < expected.added
    assert contents(client.get_collection("killed")) == contents(client.get_collection("alone"))
    names = ("added", "updated", "unchanged", "embedded", "failed")
    assert {name: summary[name] for name in names} == {name: expected.to_dict()[name] for name in names}
    assert [each["reason"] for each in summary["rejects"]] == [each.reason for each in expected.rejects]


@pytest.mark.slow
def test_again_with_sync_only_what_changed_is_done_and_what_is_gone_is_deleted(port: int, tmp_path: Path) -> None:
    source, client = write_jsonl(tmp_path / "records.jsonl", numbered(300)), client_of(port)
    assert Command(source, "synced", port).end()["added"] == 300
    assert Command(source, "synced", port).end()["unchanged"] == 300
    changed = numbered(290)
    changed[3]["text"] = "edited"
    write_jsonl(source, changed)
    summary = Command(source, "synced", port, "--sync").end()
    assert (summary["updated"], summary["unchanged"], summary["deleted"]) == (1, 289, 10)
    assert contents(client.get_collection("synced"))["r3"][0] == "edited"
    assert len(contents(client.get_collection("synced"))) == 290


@pytest.mark.slow
def test_another_model_makes_a_collection_that_takes_the_name(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, client = write_jsonl(tmp_path / "records.jsonl", numbered(100)), client_of(port)
    Command(source, "switched", port).end()
    client.get_collection("switched").add(ids=["mine"], documents=["my own"], embeddings=[[1.0] * 8])
    monkeypatch.setenv("CHROMA_MLX_DIMENSION", "4")
    summary = Command(source, "switched", port).end()
    assert (summary["added"], summary["carried"]) == (100, 1)
    assert summary["replaced"].startswith("switched.before-")
    stored = contents(client.get_collection("switched"))
    assert {len(vector) for _, _, vector in stored.values()} == {4 * 4}
    assert "mine" in stored


@pytest.mark.slow
@posix
def test_a_block_at_which_every_worker_dies_ends_it_and_what_was_written_stays(port: int, tmp_path: Path) -> None:
    source, client = write_jsonl(tmp_path / "records.jsonl", numbered(60)), client_of(port)
    deadly = START.replace(
        "sys.exit",
        "import os, signal\n"
        "from chroma_mlx.ray.worker import Worker\n"
        "class Deadly(Worker):\n"
        "    def put(self, changes, own):\n"
        "        if any(each.record.id == 'r55' for each in changes):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().put(changes, own)\n"
        "crew.Worker, crew.TRIES = Deadly, 1\n"
        "sys.exit",
    )
    command = Command(source, "deadly", port, start=deadly)
    _, errors = command.process.communicate(timeout=120)
    assert command.process.returncode == 1
    assert "run the same ingest again: it goes on from there" in errors
    left = Command(source, "deadly", port).end()
    assert left["unchanged"] + left["added"] == 60
    assert count(client, "deadly") == 60


@pytest.mark.slow
def test_the_built_in_model_makes_the_same_vectors_in_workers(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.delenv("CHROMA_MLX_MODE")
    monkeypatch.delenv("CHROMA_MLX_DIMENSION")
    source, client = write_jsonl(tmp_path / "records.jsonl", numbered(300)), client_of(port)
    assert Command(source, "embedded", port, "--model", "builtin").end()["embedded"] == 300
    ingest(source, "one", client=client, id_column="id", passage_tokens=60, model="builtin")
    there, here = (contents(client.get_collection(name)) for name in ("embedded", "one"))
    worst = max(
        float(np.abs(np.frombuffer(there[id][2], np.float32) - np.frombuffer(here[id][2], np.float32)).max())
        for id in here
    )
    assert there.keys() == here.keys()
    assert worst < 1e-5, f"vectors differ by {worst:.2e}"
    assert client.get_collection("embedded").metadata.keys() >= client.get_collection("one").metadata.keys()
