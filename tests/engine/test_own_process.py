"""Weights in a process of their own: the same vectors, and nothing of its life and death is the callers' matter."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import process_jobs
import psutil
import pytest
from process_jobs import (
    has,
    loaded_networks,
    raise_input_error,
    raise_what_cannot_travel,
    warn,
    warn_of_a_kind_of_its_own,
)
from small import CHECKPOINTS, read_texts, write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.engine.distant_calls import begin_call
from chroma_mlx.engine.encoder import counts
from chroma_mlx.engine.model import unload_models
from chroma_mlx.engine.own_process import EngineProcess, engine_process
from chroma_mlx.engine.stats import take_held
from chroma_mlx.errors import CheckpointError, DownloadError, EngineError, InputError
from chroma_mlx.metrics import expose
from chroma_mlx.models.known import KNOWN_MODELS

TEXTS = read_texts()
PROMPT = "Instruct: Find the passage\nQuery:"


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    one = EngineProcess()
    yield one
    one.close()


@pytest.fixture(autouse=True, scope="module")
def _ended() -> Iterator[None]:
    yield
    unload_models()


def is_gone(process: int) -> bool:
    """Whether a process ended, which may take it a moment."""
    try:
        psutil.Process(process).wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def kill_it() -> None:
    process = engine_process.pid
    assert process is not None
    os.kill(process, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(process)], timeout=10)


@pytest.mark.parametrize("name", ["official-float32", "mlx-4bit"])
@pytest.mark.parametrize("kind", ["document", "query"])
def test_the_vectors_are_those_of_this_process(name: str, kind: Any) -> None:
    folder = str(CHECKPOINTS / name)
    here = MLXEmbeddingFunction(folder, device="cpu", query_instruction=PROMPT)
    there = MLXEmbeddingFunction(folder, device="cpu", query_instruction=PROMPT, own_process=True)
    np.testing.assert_array_equal(there.encode(TEXTS, kind), here.encode(TEXTS, kind))
    assert engine_process.pid not in (None, os.getpid())


def test_many_threads_get_each_its_own(process: EngineProcess) -> None:
    found: dict[int, int] = {}

    def ask(number: int) -> None:
        found[number] = process.run(abs, -number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: number for number in range(64)}


def test_whole_calls_give_the_vectors_of_this_process_in_their_order() -> None:
    folder = str(CHECKPOINTS / "official-float32")
    here = MLXEmbeddingFunction(folder, device="cpu").encoder()
    there = MLXEmbeddingFunction(folder, device="cpu", own_process=True).encoder()
    parts = [TEXTS[start : start + 3] for start in range(0, len(TEXTS), 3)]
    begun = [begin_call(there, part, "document") for part in parts]
    for part, future in zip(parts, begun, strict=True):
        found, want = future.result(60), here.embed(part, "document")
        np.testing.assert_allclose(found.vectors, want.vectors, atol=1e-6)
        assert found.tokens == want.tokens
    assert not engine_process.run(has, "chromadb")


def test_weights_are_there_once_whoever_asks() -> None:
    function = MLXEmbeddingFunction("builtin", own_process=True)
    function(["a pass"])
    before = engine_process.run(loaded_networks)
    begin_call(function.encoder(), ["a whole call"], "query").result(60)
    assert engine_process.run(loaded_networks) == before


def test_a_whole_call_is_made_in_the_folders_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    shutil.copytree(CHECKPOINTS / "official-float32", tmp_path / "models" / "one")
    engine_process.run(os.getpid)  # it runs, in another folder
    monkeypatch.chdir(tmp_path)
    begun = MLXEmbeddingFunction("models/one", embedding_cache="vectors.sqlite", own_process=True).encoder()
    assert begin_call(begun, ["text"], "document").result(60).vectors.shape[0] == 1
    assert (tmp_path / "vectors.sqlite").is_file()


def test_a_model_that_the_program_registered_is_known_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(KNOWN_MODELS["all-minilm-l6-v2"], name="mine", repo_id="me/mine")
    monkeypatch.setitem(KNOWN_MODELS, "mine", row)
    encoder = MLXEmbeddingFunction("mine", own_process=True, auto_download=False, cache_dir=tmp_path).encoder()
    with pytest.raises(DownloadError, match="me/mine"):  # and not: there is no model 'mine'
        begin_call(encoder, ["text"], "document").result(60)


def test_a_whole_call_says_which_text_is_wrong() -> None:
    encoder = MLXEmbeddingFunction("builtin", own_process=True, max_tokens=8, on_long_text="error").encoder()
    with pytest.raises(InputError) as raised:
        begin_call(encoder, ["short", "long " * 100], "document").result(60)
    assert raised.value.index == 1


def test_the_passes_of_a_whole_call_are_counted_here() -> None:
    encoder = MLXEmbeddingFunction("builtin", own_process=True, batch_size=2).encoder()
    before = counts.numbers()
    begin_call(encoder, ["one", "two", "three"], "document").result(60)
    now = counts.numbers()
    assert now.pass_texts.sum - before.pass_texts.sum == 3
    assert now.pass_s.sum > before.pass_s.sum
    assert sum(now.wait_s.counts) - sum(before.wait_s.counts) >= 2  # passes of two and one, or of more pieces


def test_a_message_that_is_interrupted_halfway_is_not_continued_by_the_next(
    process: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = process.run(os.getpid)
    write = Connection._send

    def interrupted(self: Any, message: bytes, *arguments: Any) -> None:
        write(self, message[:10], *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.call(len, b"x" * 100_000)
    assert is_gone(first)
    assert process.call(len, b"x" * 100_000).result(60) == 100_000


def test_what_cannot_be_sent_leaves_the_process_as_it_is(process: EngineProcess) -> None:
    first = process.run(os.getpid)
    with pytest.raises((pickle.PicklingError, AttributeError), match="pickle"):
        process.submit(lambda: None)
    assert process.run(os.getpid) == first


def test_a_warning_of_a_kind_that_cannot_travel_is_a_plain_one(process: EngineProcess) -> None:
    with pytest.warns(UserWarning, match="see to it"):
        assert process.run(warn_of_a_kind_of_its_own, "see to it") == 1


def test_what_it_warns_of_is_warned_of_here_once_a_place(process: EngineProcess) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        warn("see to it")
        process.run(warn, "see to it")
        process.run(warn, "and to this")
    assert [(str(each.message), each.filename) for each in seen] == [
        ("see to it", process_jobs.__file__),
        ("and to this", process_jobs.__file__),
    ]


def test_a_warning_that_is_an_error_here_is_raised_by_its_job(process: EngineProcess) -> None:
    with pytest.raises(UserWarning, match="see to it"):
        process.run(warn, "see to it")
    assert process.run(os.getpid) == process.pid


def test_whole_calls_are_answered_before_it_ends(process: EngineProcess) -> None:
    begun = [process.call(time.sleep, 0.2) for _ in range(5)]
    process.close()
    assert [future.result(0) for future in begun] == [None] * 5


def test_it_does_not_hold_a_second_chroma(process: EngineProcess) -> None:
    assert process.run(has, "mlx.core")
    assert not process.run(has, "chromadb")
    assert not process.run(has, "tokenizers.models")


def test_it_starts_in_a_program_without_standard_streams() -> None:
    program = "from chroma_mlx import MLXEmbeddingFunction as F; import os, sys;" + (
        "os.close(0); os.close(1); print(len(F('builtin', own_process=True)(['x'])[0]), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stderr.split() == ["256"]


def test_a_shutdown_ends_it() -> None:
    program = (
        "import chroma_mlx; from chroma_mlx.engine.own_process import engine_process as it;"
        "chroma_mlx.MLXEmbeddingFunction('builtin', own_process=True)(['x']); there = it.pid is not None;"
        "chroma_mlx.shutdown(); print(there, it.pid)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["True", "None"], run.stderr


def test_an_error_comes_back_as_it_was_raised(process: EngineProcess) -> None:
    with pytest.raises(InputError, match="a text of the call") as raised:
        process.run(raise_input_error, 3)
    assert raised.value.index == 3
    with pytest.raises(EngineError, match="of the inside") as raised:
        process.run(raise_what_cannot_travel)
    assert "in raise_what_cannot_travel" in str(raised.value.__cause__), "where it was raised is lost"
    assert process.run(abs, -1) == 1


def test_who_waits_for_a_process_that_is_killed_is_told_and_the_next_call_starts_another(
    process: EngineProcess,
) -> None:
    waiting = process.submit(time.sleep, 600)
    killed = process.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"ended by signal SIGKILL.*starts it again"):
        waiting.result(60)
    assert process.run(os.getpid) == process.pid != killed


def test_an_answer_that_is_under_way_when_it_is_closed_arrives_and_later_calls_start_another(
    process: EngineProcess,
) -> None:
    slow, large = process.submit(time.sleep, 0.2), process.submit(bytes, 10**8)
    process.close()
    assert slow.result(60) is None
    assert len(large.result(60)) == 10**8
    assert process.run(abs, -1) == 1


def test_one_that_takes_too_long_to_end_is_killed(process: EngineProcess) -> None:
    waiting = process.submit(time.sleep, 600)
    process.close(within_s=0.1)
    with pytest.raises(EngineError, match="was ended before it had answered"):
        waiting.result(60)


def test_where_no_thread_can_be_started_nobody_waits_for_ever(
    process: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(EngineError, match="can't start new thread"):
                process.submit(abs, -1)
    assert process.pid is None
    assert process.run(abs, -1) == 1


def test_it_ends_when_it_is_told_to_and_not_by_a_signal_that_is_for_the_program(process: EngineProcess) -> None:
    before = process.run(os.getpid)
    os.kill(before, signal.SIGTERM)
    os.kill(before, signal.SIGINT)
    assert process.run(os.getpid) == before
    process.close()
    assert is_gone(before)
    assert process.pid is None


def test_a_call_is_answered_though_the_process_is_killed_before_it() -> None:
    function = MLXEmbeddingFunction(str(CHECKPOINTS / "official-float32"), device="cpu", own_process=True)
    before = function.encode(TEXTS)
    kill_it()
    np.testing.assert_array_equal(function.encode(TEXTS), before)


def test_other_files_are_not_computed_with_where_the_process_has_to_load_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    function = MLXEmbeddingFunction(str(folder), device="cpu", own_process=True)
    function.encode(["a"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    kill_it()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="were changed after they were loaded"):
            function.encode(["a"])


def test_a_checkpoint_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        MLXEmbeddingFunction(str(folder), own_process=True).encode(["a"])


def test_its_memory_is_counted() -> None:
    unload_models()
    before = take_held()
    function = MLXEmbeddingFunction(str(CHECKPOINTS / "official-float32"), device="cpu", own_process=True)
    function.encode(TEXTS)
    held = take_held()
    assert held.weights_bytes > before.weights_bytes == 0
    assert held.active_bytes > before.active_bytes
    assert b"chroma_mlx_engine_process_" in expose() or not Path("/proc").exists()
    unload_models()
    assert b"chroma_mlx_engine_process_" not in expose()


def test_forgotten_models_free_the_process() -> None:
    function = MLXEmbeddingFunction(str(CHECKPOINTS / "official-float32"), device="cpu", own_process=True)
    function.encode(["a"])
    process = engine_process.pid
    assert process is not None
    unload_models()
    assert engine_process.pid is None
    assert is_gone(process)
    assert function.encode(["a"]).shape[0] == 1


PROGRAM = """
import os, signal, sys, warnings
from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.engine.own_process import engine_process
function = MLXEmbeddingFunction(sys.argv[1], device="cpu", own_process=True)
assert function.encode(["a"]).shape == (1, 32)
assert "mlx.core" not in sys.modules, "MLX was loaded twice"
print(engine_process.pid, flush=True)
if sys.argv[2] == "fork":
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is what this is about
    if (child := os.fork()) == 0:
        for job in (lambda: function.encode(["b"]), lambda: engine_process.run(abs, -1)):
            try:
                job()
            except Exception as error:
                print(type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    function.encode(["c"])
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("how", "status"), [("end", 0), ("kill", -signal.SIGKILL), ("fork", 0)])
def test_it_is_gone_when_the_program_is(tmp_path: Path, how: str, status: int) -> None:
    folder = write_checkpoint(tmp_path / "model")
    command = [sys.executable, "-X", "dev", "-c", PROGRAM, str(folder), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (status, "")
    process, *said = done.stdout.split()
    assert is_gone(int(process))
    assert said == (["ForkedProcess"] * 2 if how == "fork" else [])
