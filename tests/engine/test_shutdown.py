"""Embedding ends at a moment of the program's choosing."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import threading
import chroma_mlx
from chroma_mlx.engine.encoder import scheduler
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.errors import SchedulerClosed

texts = [f"star {number}" for number in range(40)]
function = chroma_mlx.MLXEmbeddingFunction("builtin", batch_size=2)
function.load()
go_on, told = threading.Event(), []
mlx_thread.submit(go_on.wait)

def ask():
    try:
        told.append(len(function.encode(texts)))
    except SchedulerClosed as error:
        told.append(str(error))

asking = threading.Thread(target=ask)
asking.start()
while not scheduler.depth[0]:
    pass
ending = threading.Thread(target=chroma_mlx.shutdown, kwargs={"drain": DRAIN})
ending.start()
while not scheduler._closed:
    pass
print("still running" if ending.is_alive() else "returned too early")
go_on.set()
for thread in (ending, asking):
    thread.join(30)
print(*told)
try:
    function.encode(["another"])
except SchedulerClosed as error:
    print("then:", error)
"""


@pytest.mark.parametrize(("drain", "told"), [(True, "40"), (False, "The engine was closed")])
def test_shutting_down_computes_or_refuses_what_waits(drain: bool, told: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("DRAIN", str(drain))], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "still running"
    assert lines[1].startswith(told)
    assert lines[2].startswith("then: The engine was closed")
