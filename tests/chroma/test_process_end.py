"""How a process ends, or forks, with MLX in it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from processes import answer, run_python, start_python

START = """
import sys, threading, json
from chroma_mlx import MLXEmbeddingFunction
function = MLXEmbeddingFunction("builtin")
many = [f"text {number} of many" for number in range(200_000)]
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork are POSIX")


def test_a_process_that_embedded_ends_cleanly() -> None:
    exit_code, output, errors = run_python(START + "print(len(function(['a text'])[0]))")

    assert (exit_code, output, errors) == (0, "256\n", "")


def test_a_process_ends_cleanly_while_a_daemon_thread_embeds() -> None:
    code = """
def work():
    while True:
        function(many[:64])
        begun.set()
begun = threading.Event()
threading.Thread(target=work, daemon=True).start()
begun.wait()
print("end")
"""
    exit_code, output, errors = run_python(START + code)

    assert (exit_code, output) == (0, "end\n"), errors
    # The thread may be told that the interpreter goes down, and have no time to print all of it.
    assert not errors or errors.startswith("Exception in thread"), errors
    assert "terminate called" not in errors


def test_sys_exit_keeps_its_code_and_lets_a_thread_embed_to_its_end() -> None:
    code = """
begun = threading.Event()
def work():
    function(["a text"])
    begun.set()
    print(len(function(many[:1024])), flush=True)
threading.Thread(target=work).start()
begun.wait()
sys.exit(3)
"""
    exit_code, output, errors = run_python(START + code)

    assert exit_code == 3
    assert (output, errors) == ("1024\n", "")


@pytest.mark.parametrize("used", [True, False], ids=["used before", "first use"])
def test_an_exit_handler_that_embeds_is_told_that_it_is_too_late(used: bool) -> None:
    code = """
import atexit
from chroma_mlx.errors import EngineError
def last():
    try:
        print(len(function(["a text"])))
    except EngineError as error:
        print(error)
atexit.register(last)
"""
    exit_code, output, errors = run_python(START + code + ("function(['a text'])" if used else ""))

    assert (exit_code, errors) == (0, "")
    assert output == "1\n" or output.startswith("The interpreter is shutting down, so no more texts can be embedded.")


@posix
def test_an_interrupt_ends_a_long_encoding_at_once() -> None:
    code = """
function(many[:1])
print("begun", flush=True)
function(many)
print("ran to the end")
"""
    process = start_python(START + code)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)  # all the texts would take minutes
    finally:
        process.kill()

    assert process.returncode in (130, -signal.SIGINT)
    assert output == ""
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "terminate called" not in errors


# From Python 3.12 on a fork beside other threads is warned of, which is what this is about.
FORK = """
import os, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from chroma_mlx.errors import ForkedProcess
def in_child(work):
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except ForkedProcess as error:
            said = f"ForkedProcess: {error}"
        os.write(writing, str(said).encode())
        os.close(writing)
        sys.exit(5)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@posix
def test_a_fork_after_use_is_refused_in_the_child_and_the_parent_goes_on() -> None:
    code = """
before = function(["a text"])[0]
said, status = in_child(lambda: function(["a text"]))
after = function(["a text"])[0]
print(json.dumps([said, status, bool(abs(before - after).max() < 1e-6)]))
"""
    said, status, same = answer(START + FORK + code)

    assert said.startswith("ForkedProcess: MLX was in use in the parent process when this one was forked")
    assert "'spawn' or 'forkserver'" in said
    assert (status, same) == (5, True)


@posix
def test_a_fork_before_use_works_in_child_and_parent() -> None:
    code = """
said, status = in_child(lambda: len(function(["a text"])[0]))
print(json.dumps([said, status, len(function(["a text"])[0])]))
"""
    assert answer(START + FORK + code) == ["256", 5, 256]


def test_spawned_workers_embed_after_the_parent_did(tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(
        """
import concurrent.futures, json, multiprocessing
from chroma_mlx import MLXEmbeddingFunction

def work(text):
    return MLXEmbeddingFunction("builtin")([text])[0].tolist()

if __name__ == "__main__":
    here = work("a text")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(work, "a text").result()
    print(json.dumps(max(abs(a - b) for a, b in zip(here, there))))
""",
        encoding="utf-8",
    )

    worst = answer("import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')", str(script))

    assert worst < 1e-6


def test_arrays_that_the_threads_storage_holds_at_exit_do_not_kill_the_process() -> None:
    # MLX keeps Python objects in the local storage of its thread, and releasing them while the interpreter
    # is torn down aborts the process; that is a race, hence several processes and much to tear down.
    code = """
from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.engine.mlx_thread import mlx_thread
MLXEmbeddingFunction("builtin")(["a text"])
def compile_something():
    import mlx.core as mx
    mx.eval(mx.fast.rope(mx.ones((1, 1, 8, 8)), 8, traditional=False, base=1e4, scale=1.0, offset=0))
mlx_thread.run(compile_something)
burden = [{n: [n]} for n in range(300_000)]
"""
    for _ in range(3):
        assert run_python(code) == (0, "", "")
