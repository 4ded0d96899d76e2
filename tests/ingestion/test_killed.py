"""Killed at any moment and run again: the collection is as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from ingested import contents, write_jsonl

from chroma_mlx import IngestResult, ingest
from chroma_mlx.ingestion import preparing

posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
# Batches of a few passages, so that a kill falls between some.
PASSAGES = 20
# The process gives itself a signal around an upsert of its own, where it is told to.
START = f"""
import os, sys
from chromadb.api.models.Collection import Collection
from chroma_mlx.ingestion import preparing
preparing.FIRST_PASSAGES, preparing.DOCUMENTS_A_BLOCK, preparing.BATCH_S = {PASSAGES}, {PASSAGES}, 0.02
number, moment, count = int(sys.argv[1]), float(sys.argv[2]), 0
upsert = Collection.upsert
def interrupted(*arguments, **more):
    global count
    count += 1
    if number and count == moment:
        os.kill(os.getpid(), number)
    upsert(*arguments, **more)
    if number and count == moment - 0.5:
        os.kill(os.getpid(), number)
Collection.upsert = interrupted
from chroma_mlx.cli import main
sys.exit(main(sys.argv[3:]))
"""


def sources(folder: Path, count: int) -> Path:
    """Records, some of several passages, and a few documents."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(count):
        text = f"Record {number} is of thing {number % 7}. " * (60 if number % 10 == 0 else 1)
        rows.append({"id": f"r{number}", "text": text, "n": number, "tag": f"t{number % 3}"})
    write_jsonl(folder / "records.jsonl", rows)
    for number in range(5):
        parts = "\n\n".join(f"## Part {part}\n\n" + f"It says {number} and {part}. " * 30 for part in range(6))
        (folder / f"doc{number}.md").write_text(f"# Document {number}\n\n{parts}\n")
    return folder


def edit(folder: Path) -> None:
    """Some records are edited, get shorter or longer, or go; a document gets shorter."""
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        if number % 10 == 0:
            row["text"] = "short now" if number % 20 == 0 else row["text"] * 2
        elif number % 7 == 0:
            row["text"] = f"edited {number} " * (1 if number % 2 else 80)
        elif number % 11 == 0:
            del row["tag"]
    write_jsonl(folder / "records.jsonl", [row for row in rows if row["n"] % 13])
    (folder / "doc0.md").write_text("# Document 0\n\nShort.\n")


class Command:
    """`chroma-mlx ingest` as a process of its own."""

    def __init__(self, folder: Path, database: Path, *, signal: int = 0, moment: float = 0) -> None:
        """`moment` 3 gives the signal before the third upsert, 3.5 behind it."""
        environment = {**os.environ, "XDG_STATE_HOME": str(database.parent / "state"), "ANONYMIZED_TELEMETRY": "False"}
        arguments = [str(folder), "--base", str(folder), "--collection", "notes", "--path", str(database), "--json"]
        arguments += ["--passage-tokens", "60", "--sync"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(int(signal)), str(moment), "ingest", *arguments],
            env=environment,
            cwd=database.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_after(self, seconds: float) -> bool:
        """Whether it was still running when it was killed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=30)
        return self.process.returncode == -signal.SIGKILL

    def end(self) -> tuple[int, str]:
        """(exit status, errors)."""
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


def complete(folder: Path, database: Path) -> IngestResult:
    """The same to its end, in this process."""
    client = chromadb.PersistentClient(database, settings=Settings(anonymized_telemetry=False))
    try:
        return ingest(folder, "notes", client=client, base=folder, passage_tokens=60, sync=True)
    finally:
        client.close()


def stored(database: Path) -> dict[str, tuple[str, dict[str, Any], bytes]]:
    client = chromadb.PersistentClient(database, settings=Settings(anonymized_telemetry=False))
    try:
        return contents(client.get_collection("notes"))
    finally:
        client.close()


@pytest.fixture
def undisturbed(tmp_path: Path) -> tuple[Path, dict[str, tuple[str, dict[str, Any], bytes]]]:
    """The sources after an edit, and what two runs that nothing disturbed make of them."""
    folder = sources(tmp_path / "in", 200)
    (tmp_path / "whole").mkdir()
    complete(folder, tmp_path / "whole/db")
    shutil.copytree(folder, tmp_path / "before")
    edit(folder)
    complete(folder, tmp_path / "whole/db")
    return folder, stored(tmp_path / "whole/db")


@posix
@pytest.mark.parametrize("moment", [4.5])
def test_killed_while_it_fills_and_while_it_updates_it_goes_on_to_the_same(
    moment: float, undisturbed: tuple[Path, dict[str, tuple[str, dict[str, Any], bytes]]], tmp_path: Path
) -> None:
    folder, expected = undisturbed
    database = tmp_path / "killed/db"
    database.parent.mkdir()
    shutil.move(folder, tmp_path / "after")
    shutil.copytree(tmp_path / "before", folder)
    assert Command(folder, database, signal=signal.SIGKILL, moment=moment).end()[0] == -signal.SIGKILL
    between = stored(database)
    first = complete(folder, database)
    assert first.unchanged >= len(between) > 0
    assert first.added > 0
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "after", folder)
    assert Command(folder, database, signal=signal.SIGKILL, moment=moment - 2).end()[0] == -signal.SIGKILL
    complete(folder, database)
    assert stored(database) == expected


@posix
@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_what_an_undisturbed_run_does(
    undisturbed: tuple[Path, dict[str, tuple[str, dict[str, Any], bytes]]], tmp_path: Path
) -> None:
    folder, expected = undisturbed
    shutil.copytree(folder, tmp_path / "after")
    started = time.perf_counter()
    (tmp_path / "timed").mkdir()
    Command(folder, tmp_path / "timed/db").kill_after(120)
    whole_s = time.perf_counter() - started
    moments, killed = random.Random(7), 0
    for turn in range(50):
        home = tmp_path / f"turn{turn}"
        home.mkdir()
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        killed += Command(folder, home / "db").kill_after(moments.uniform(0.3, 1.0) * whole_s)
        if turn % 2:
            complete(folder, home / "db")
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "after", folder)
        killed += Command(folder, home / "db").kill_after(moments.uniform(0.3, 1.0) * whole_s)
        complete(folder, home / "db")
        found = stored(home / "db")
        assert found == expected, f"turn {turn}: {set(found) ^ set(expected)}"
        shutil.rmtree(home)
    assert killed >= 50, f"only {killed} of 100 runs were killed before their end"


# The process gives itself the signal when it has begun to wait for the first record.
WAITING = """
import os, signal, sys, threading
from chroma_mlx.ingestion import preparing
read = preparing._read_file
def interrupted(*arguments):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    yield from read(*arguments)
preparing._read_file = interrupted
from chroma_mlx.cli import main
sys.exit(main(sys.argv[1:]))
"""


@posix
@pytest.mark.parametrize("source", ["-", "pipe"])
def test_an_interrupt_ends_it_while_a_pipe_gives_nothing(source: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    arguments = ["ingest", source, "--format", "jsonl", "--collection", "notes", "--path", "db"]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, *arguments],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        status = process.wait(30)  # communicate would close its standard input
        assert process.stderr is not None
        assert (status, process.stderr.read().strip()) == (130, "chroma-mlx: interrupted")
    finally:
        process.kill()
        process.communicate()


@posix
def test_an_interrupt_ends_it_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder, database = sources(tmp_path / "in", 200), tmp_path / "db"
    status, errors = Command(folder, database, signal=signal.SIGINT, moment=2.5).end()
    assert (status, errors.strip()) == (130, "chroma-mlx: interrupted")
    there = len(stored(database))
    found = complete(folder, database)
    assert (found.unchanged, found.added > 0, there > 0) == (there, True, True)


def test_a_batch_is_what_a_few_seconds_embed_and_the_client_takes() -> None:
    pace = preparing.Pace(1_000)
    for _ in range(5):
        pace.note(100, 0.1)
    assert pace.passages == 1_000
    pace.note(100, 50.0)
    assert pace.passages == preparing.LEAST_PASSAGES
