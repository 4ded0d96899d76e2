"""Same text, same vector; each text computed once; every wrong call answered by name."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CHECKPOINTS, CONFIG, make_tensors, read_texts, write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.engine import request as request_module
from chroma_mlx.engine.batching import ENOUGH_TOKENS
from chroma_mlx.engine.encoder import THREADS, Encoder, _Threads
from chroma_mlx.engine.mlx_thread import CACHE_LIMIT_BYTES, MLXThread, mlx_thread
from chroma_mlx.engine.model import Model, ModelSpec, choose_device, find_loaded, get_model, unload_models
from chroma_mlx.errors import ConfigError, EngineError, InputError, TextTooLong
from chroma_mlx.settings import MachineSettings, VectorSettings

Vectors = npt.NDArray[np.float32]

FOLDER = str(CHECKPOINTS / "official-float32")
SAME = 1e-5


def encode(texts: list[str], *, model: str = FOLDER, machine: dict[str, Any] | None = None, **vectors: Any) -> Vectors:
    settings = VectorSettings(model_name=model, **vectors)
    return Encoder(settings, MachineSettings(device="cpu", **(machine or {}))).encode(texts, "document")


def distance(one: Vectors, other: Vectors) -> float:
    return float(np.abs(one - other).max())


def test_batch_neighbours_and_order_do_not_change_a_vector() -> None:
    texts = read_texts()
    alone = np.concatenate([encode([text]) for text in texts])
    for seed in range(4):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        worst = distance(encode([texts[place] for place in order]), alone[order])
        assert worst < SAME, f"order {seed}: differs by {worst:.1e}"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3_000), st.randoms(use_true_random=False))
def test_batch_sizes_do_not_change_a_vector(size: int, tokens: int, rng: random.Random) -> None:
    texts = read_texts()
    rng.shuffle(texts)
    worst = distance(encode(texts, machine={"batch_size": size, "batch_tokens": tokens}), encode(texts))
    assert worst < SAME, f"batches of {size} texts or {tokens} tokens: differs by {worst:.1e}"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_any_text_gets_a_finite_vector_of_unit_length(texts: list[str]) -> None:
    vectors = encode(texts)
    assert vectors.shape == (len(texts), 32)
    worst = distance(np.linalg.norm(vectors, axis=1), np.ones(len(texts), dtype=np.float32))
    assert worst < 1e-6, f"a length differs from 1 by {worst:.1e}"


def test_threads_do_not_change_a_vector() -> None:
    texts = read_texts()
    want = encode(texts)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: (start, encode(texts[start:] + texts[:start])), range(len(texts))))
    for start, vectors in found:
        worst = distance(vectors, np.roll(want, -start, axis=0))
        assert worst < SAME, f"rotated by {start}: differs by {worst:.1e}"


def test_another_process_gives_the_same_vectors(tmp_path: Path) -> None:
    tests = Path(__file__).parent.parent
    code = (
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}];"
        "import numpy as np; from chroma_mlx import MLXEmbeddingFunction; from small import read_texts;"
        "np.save(sys.argv[2], np.stack(MLXEmbeddingFunction(sys.argv[1], device='cpu')(read_texts())))"
    )
    output = tmp_path / "vectors.npy"
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            FOLDER,
            output,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    worst = distance(np.load(output), encode(read_texts()))
    assert worst < SAME, f"differs by {worst:.1e}"


def test_a_model_loaded_again_gives_the_same_vectors() -> None:
    before = encode(read_texts())
    unload_models()
    worst = distance(encode(read_texts()), before)
    assert worst < SAME, f"differs by {worst:.1e}"


def test_equal_texts_are_computed_once_and_returned_everywhere() -> None:
    texts = ["a", "b", "a", "c", "b", "a"]
    encoder = Encoder(VectorSettings(model_name=FOLDER), MachineSettings(device="cpu", batch_size=1))
    model = encoder.load()
    rows = 0
    batches = request_module.plan_batches

    def counted(lengths: list[int], **budgets: int) -> list[list[int]]:
        nonlocal rows
        rows += len(lengths)
        return batches(lengths, **budgets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_module, "plan_batches", counted)
        vectors = encoder.encode(texts, "document")
    assert rows == 3
    assert model is encoder.load()
    for place, text in enumerate(texts):
        np.testing.assert_array_equal(vectors[place], vectors[texts.index(text)])
    assert distance(vectors[0], vectors[1]) > 0.1


def test_windows_of_texts_give_the_vectors_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = read_texts()
    want = encode(texts)
    monkeypatch.setattr(request_module, "FIRST_WINDOW_TEXTS", 3)
    monkeypatch.setattr(request_module, "WINDOW_TEXTS", 5)
    worst = distance(encode(texts), want)
    assert worst < SAME, f"differs by {worst:.1e}"


def test_one_model_serves_every_function_of_its_specification() -> None:
    one = Encoder(VectorSettings(model_name=FOLDER, dimension=8), MachineSettings(device="cpu"))
    other = Encoder(VectorSettings(model_name=FOLDER, pooling="mean"), MachineSettings(device="cpu", batch_size=3))
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda place: (one, other)[place % 2].load(), range(16)))
    assert {id(model) for model in models} == {id(get_model(one.spec, auto_download=False, show_progress=False))}


def load(folder: Path, device: str) -> Model:
    return get_model(ModelSpec(str(folder), device, None), auto_download=False, show_progress=False)


@pytest.mark.parametrize("auto_first", [True, False])
def test_auto_and_the_device_that_it_is_share_one_model(tmp_path: Path, auto_first: bool) -> None:
    folder = write_checkpoint(tmp_path / "model")
    device = mlx_thread.run(lambda: choose_device("auto"))
    asked = ["auto", device] if auto_first else [device, "auto"]
    one, other = [load(folder, name) for name in asked]
    assert one is other
    assert one.device == device
    assert all(find_loaded(ModelSpec(str(folder), name, None)) is one for name in asked)


def test_threads_that_ask_for_auto_and_for_its_device_load_one_model(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    devices = ["auto", mlx_thread.run(lambda: choose_device("auto"))]
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda place: load(folder, devices[place % 2]), range(16)))
    assert len({id(model) for model in models}) == 1


def test_unloading_frees_the_model_of_auto_and_of_its_device(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    devices = ["auto", mlx_thread.run(lambda: choose_device("auto"))]
    checkpoints = [weakref.ref(load(folder, device).checkpoint) for device in devices]
    assert None not in [checkpoint() for checkpoint in checkpoints]
    unload_models()
    gc.collect()
    assert [find_loaded(ModelSpec(str(folder), device, None)) for device in devices] == [None, None]
    assert [checkpoint() for checkpoint in checkpoints] == [None, None]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "the list is empty"),
        (["a", None], "Text 1 is None"),
        ("a", "one str, not a list"),
        (["\ud800"], "Text 0 holds the lone surrogate"),
    ],
)
def test_a_bad_call_is_refused_before_a_model_is_looked_for(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(texts, model="./no-such-folder")


def test_a_long_text_is_named_by_its_place_in_the_call() -> None:
    texts = ["a", "a", "b", "a", "long " * 40, "c"]
    with pytest.raises(TextTooLong, match="Text 4 has 122 tokens, but the limit is 40,"):
        encode(texts, max_tokens=40, on_long_text="error")


def test_a_long_text_in_a_later_window_is_named_by_its_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "FIRST_WINDOW_TEXTS", 1)
    monkeypatch.setattr(request_module, "WINDOW_TEXTS", 2)
    with pytest.raises(TextTooLong, match="Text 5 has"):
        encode(["a", "b", "a", "c", "d", "long " * 40], max_tokens=40, on_long_text="error")


@pytest.mark.parametrize("dimension", [33, 100_000])
def test_a_dimension_beyond_the_models_own_is_refused(dimension: int) -> None:
    with pytest.raises(ConfigError, match=f"dimension is {dimension}, but .* of 1 to 32 dimensions"):
        encode(["a"], dimension=dimension)


def test_max_tokens_beyond_the_positions_is_refused() -> None:
    assert np.isfinite(encode(["a"], max_tokens=1024)).all()
    with pytest.raises(ConfigError, match=r"max_tokens is 1025, but .* has positions for 1024 tokens"):
        encode(["a"], max_tokens=1025)


def test_max_tokens_may_exceed_what_the_checkpoint_is_set_to_where_there_are_positions() -> None:
    model = str(CHECKPOINTS / "short-limit")
    long = "planet " * 60
    assert distance(encode([long], model=model), encode([long], model=model, max_tokens=200)) > 0.01


def test_max_tokens_that_leave_no_room_for_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens is 1, but this model puts 1 special"):
        encode(["a"], max_tokens=1)


def test_a_model_that_gives_no_number_returns_nothing(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["norm.weight"][3] = np.nan
    folder = write_checkpoint(tmp_path / "model", tensors=tensors)
    with pytest.raises(EngineError, match=r"The model gave text [01] a vector that is not finite"):
        encode(["a", "b"], model=str(folder))


def test_a_model_that_gives_zeros_has_no_direction(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["norm.weight"][:] = 0
    folder = str(write_checkpoint(tmp_path / "model", tensors=tensors))
    with pytest.raises(EngineError, match="The model gave text 0 a vector that is zero"):
        encode(["a"], model=folder)
    assert not encode(["a"], model=folder, normalize=False).any()


def test_after_an_error_the_next_call_works() -> None:
    with pytest.raises(TextTooLong, match="Text 1 has"):
        encode(["a", "long " * 40], max_tokens=40, on_long_text="error")
    worst = distance(encode(["a"]), encode(["a", "b"])[:1])
    assert worst < SAME, f"differs by {worst:.1e}"


def test_without_normalising_the_direction_is_the_same() -> None:
    raw = encode(read_texts(), normalize=False)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert float(np.abs(lengths - 1).max()) > 0.1, "the raw vectors have unit length already"
    worst = distance(raw / lengths, encode(read_texts()))
    assert worst < SAME, f"differs by {worst:.1e}"


def test_a_task_is_put_into_the_models_form_and_a_prefix_is_not() -> None:
    def query(instruction: str | None) -> Vectors:
        return np.stack(MLXEmbeddingFunction(FOLDER, query_instruction=instruction, device="cpu").embed_query(["a"]))

    task = "Find the proof of a claim"
    assert distance(query(task), query(f"Instruct: {task}\nQuery:")) == 0.0
    assert distance(query("claim:"), query("claim: ")) > 1e-3
    assert distance(query(""), np.stack(MLXEmbeddingFunction(FOLDER, device="cpu")(["a"]))) == 0.0


def test_a_job_that_asks_for_the_thread_it_is_on_runs_at_once() -> None:
    assert mlx_thread.run(lambda: mlx_thread.run(lambda: 42)) == 42


def test_a_relative_folder_is_another_model_in_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        config = CONFIG | {"rope_theta": 10_000.0 if name == "a" else 500.0}
        write_checkpoint(tmp_path / name / "model", config=config)
    texts = ["one text", "and another"]
    vectors = []
    for name in ("a", "b"):
        monkeypatch.chdir(tmp_path / name)
        vectors.append(MLXEmbeddingFunction("./model").encode(texts))
    assert distance(vectors[0], vectors[1]) > 1e-3


def test_an_array_of_texts_is_taken_and_one_without_a_length_refused() -> None:
    function = MLXEmbeddingFunction("builtin")
    assert function.encode(np.array(["a", "b"])).shape == (2, 256)  # type: ignore[arg-type]  # works all the same
    with pytest.raises(InputError, match="not a list of str"):
        function.encode(np.array("a"))  # type: ignore[arg-type]  # what is refused


def test_memory_is_released_after_idle_and_the_thread_goes_on() -> None:
    released = threading.Event()
    thread = MLXThread(idle_s=0.0, on_idle=released.set)
    assert thread.run(lambda: 1) == 1
    assert released.wait(60)
    assert thread.run(lambda: 2) == 2


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    thread = MLXThread()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EngineError, match="can't start new thread"):
            thread.submit(int)
    assert thread.submit(int).result(60) == 0


def test_jobs_for_which_there_is_no_thread_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ThreadPoolExecutor, job: Any) -> None:
        raise RuntimeError("can't start new thread")

    threads = _Threads()
    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuse)
        for _ in range(THREADS + 1):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                threads.submit(int, "fail_fast")
    assert threads.submit(int, "fail_fast").result(60) == 0


def test_what_is_released_is_all_that_mlx_keeps_and_what_it_keeps_is_bounded() -> None:
    def kept() -> tuple[int, int]:
        import mlx.core as mx

        limit = mx.set_cache_limit(0)
        mx.set_cache_limit(limit)
        mx.eval(mx.zeros((1000, 1000)) + 1.0)
        mlx_thread._on_idle()
        return limit, mx.get_cache_memory()

    limit, cached = mlx_thread.run(kept)
    assert limit in CACHE_LIMIT_BYTES.values()
    assert cached == 0


RELEASED = """
import os
from chroma_mlx.engine.mlx_thread import mlx_thread

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def grown():
    import mlx.core as mx

    mlx_thread._on_idle()
    before = resident()
    # What is kept at the end of the heap holds all that was freed before it there.
    arrays = [mx.ones((64, 1024)) * n for n in range(400)]
    mx.eval(arrays)
    kept, held = arrays[-1], resident() - before
    del arrays
    mlx_thread._on_idle()
    del kept
    return held, resident() - before

print(*mlx_thread.run(grown))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is resident is read from /proc")
def test_what_is_released_goes_back_to_the_system() -> None:
    # In a process of its own: here others have left free memory behind.
    done = subprocess.run([sys.executable, "-c", RELEASED], capture_output=True, text=True, timeout=60, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 90 * 2**20
    assert left < 20 * 2**20


def test_a_cpu_gets_no_larger_batch_than_it_gains_from() -> None:
    one = Encoder(VectorSettings(model_name=FOLDER), MachineSettings(device="cpu", batch_size=1_000))
    texts = [f"a text of twenty-five {number:03}" for number in range(200)]
    sizes = [sum(map(len, work.rows)) for _, work in one.request(texts, "document").batches()]
    assert max(sizes) <= ENOUGH_TOKENS["cpu"] < sum(sizes)
    assert min(sizes[:-1]) > ENOUGH_TOKENS["cpu"] - 30
