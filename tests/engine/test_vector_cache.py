"""What was computed once is found again, bit for bit, and nothing else is ever found."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import CHECKPOINTS, read_texts

from chroma_mlx import EmbeddingConfig, EmbeddingRouter, MLXEmbeddingFunction
from chroma_mlx.diagnosis.verify import verify_model
from chroma_mlx.engine.cached_texts import Specification, make_keys
from chroma_mlx.engine.encoder import Embedded, Encoder
from chroma_mlx.engine.model import Model
from chroma_mlx.engine.plan import Kind
from chroma_mlx.engine.vector_cache import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    LOCKS_IN_A_ROW,
    PAGE_BYTES,
    ROWS_AT_ONCE,
    SCHEMA,
    SCHEMA_VERSION,
    USE_PRECISION_S,
    VectorCache,
    _checksum,
    close_caches,
    shared_cache,
)
from chroma_mlx.errors import CacheSetAside, ConfigError, EngineError, InputError, TextTooLong
from chroma_mlx.settings import MachineSettings, VectorSettings

Vectors = npt.NDArray[np.float32]

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = str(CHECKPOINTS / "official-float32")
WIDTH: Final = 32
ROOMY: Final = 10**8
SPECIFICATION: Final = Specification(
    weights="0123456789abcdef",
    quantization="float32",
    dense=(),
    start_token=None,
    end_token="<|endoftext|>",
    prompt="",
    skip=0,
    pooling="last",
    max_tokens=512,
    on_long_text="truncate",
    dimension=WIDTH,
    normalize=True,
    device="cpu",
    dtype="float32",
)
CHANGES: Final[dict[str, Any]] = {
    "weights": "0123456789abcdee",
    "quantization": "bfloat16",
    "dense": ((32, 32, False, "Identity"),),
    "start_token": "<s>",
    "end_token": None,
    "prompt": "query: ",
    "skip": 1,
    "pooling": "mean",
    "max_tokens": 511,
    "on_long_text": "error",
    "dimension": 31,
    "normalize": False,
    "device": "gpu",
    "dtype": "bfloat16",
    "computation": 0,
}


@pytest.fixture(autouse=True)
def _files_are_closed() -> Iterator[None]:
    yield
    close_caches()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectors.sqlite"


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of every forward pass."""
    sizes: list[int] = []
    forward = Model.embed

    def counted(self: Model, rows: list[Any], **options: Any) -> Vectors:
        sizes.append(len(rows))
        return forward(self, rows, **options)

    monkeypatch.setattr(Model, "embed", counted)
    return sizes


def embed(
    texts: list[str],
    file: Path | None,
    *,
    kind: Kind = "document",
    model: str = FOLDER,
    machine: dict[str, Any] | None = None,
    **vectors: Any,
) -> Embedded:
    options = MachineSettings(device="cpu", embedding_cache=file, **(machine or {}))
    return Encoder(VectorSettings(model_name=model, **vectors), options).embed(texts, kind)


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def keys_of(*numbers: int) -> list[bytes]:
    return [key_of(number) for number in numbers]


def random_vectors(rows: int, dimension: int = WIDTH, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program has it."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def run_python(code: str, *arguments: object) -> None:
    """Runs a script that must end well and without a warning."""
    run = subprocess.run([*command(code), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


def command(code: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]


# Found again


def test_a_second_call_computes_nothing_and_gives_the_same_bits(file: Path, forwards: list[int]) -> None:
    texts = read_texts()
    first = embed(texts, file)
    computed = sum(forwards)
    second = embed(texts, file)

    assert computed == len(texts) == sum(forwards)
    assert (first.cached, second.cached) == (0, len(texts))
    assert first.tokens > second.tokens == 0
    assert second.vectors.dtype == np.float32
    assert first.vectors.tobytes() == second.vectors.tobytes()


def test_only_new_texts_are_computed_and_counted(file: Path, forwards: list[int]) -> None:
    embed(["a", "b"], file)
    forwards.clear()
    mixed = embed(["c", "a", "d", "c", "b", "a"], file)
    assert sum(forwards) == 2
    assert mixed.cached == 2
    assert mixed.tokens == embed(["c", "d"], None).tokens
    again = [embed([text], file).vectors[0] for text in ["c", "a", "d", "c", "b", "a"]]
    assert mixed.vectors.tobytes() == np.stack(again).tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text("abcé\0", max_size=3), min_size=1, max_size=6), min_size=1, max_size=4))
def test_whatever_came_before_a_text_has_one_vector(tmp_path: Path, calls: list[list[str]]) -> None:
    file = tmp_path / "one for all examples"
    for texts in calls:
        found = embed(texts, file)
        np.testing.assert_allclose(found.vectors, embed(texts, None).vectors, atol=1e-5)
        again = embed(texts[::-1], file)
        assert again.cached == len(set(texts))
        assert again.vectors[::-1].tobytes() == found.vectors.tobytes()


def test_another_process_finds_what_this_one_computed(file: Path) -> None:
    vectors = embed(["a", "b"], file).vectors
    code = """
from chroma_mlx import MLXEmbeddingFunction
function = MLXEmbeddingFunction(sys.argv[1], device="cpu", embedding_cache=sys.argv[2])
found = function.encoder().embed(["b", "a"], "document")
assert (found.cached, found.tokens) == (2, 0), found
assert found.vectors[::-1].tobytes().hex() == sys.argv[3]
"""
    run_python(code, FOLDER, file, vectors.tobytes().hex())


@pytest.mark.parametrize(
    "text",
    ["", "\0", "a\0b", "é", "e\u0301", "😀", "planet " * 40_000],
    ids=["empty", "NUL", "NUL inside", "accent", "combining accent", "emoji", "huge"],
)
def test_any_text_is_found_again(text: str, file: Path) -> None:
    first, second = embed([text], file), embed([text, "other"], file)
    assert (first.cached, second.cached) == (0, 1)
    assert first.vectors[0].tobytes() == second.vectors[0].tobytes()


def test_a_text_without_utf_8_is_refused_with_a_cache_too(file: Path) -> None:
    with pytest.raises(InputError, match="Text 1 holds the lone surrogate"):
        embed(["a", "\ud800"], file)
    assert not file.exists()


def test_the_same_weights_in_another_folder_are_the_same_model(file: Path, tmp_path: Path, forwards: list[int]) -> None:
    shutil.copytree(FOLDER, tmp_path / "model")
    embed(["a"], file)
    assert embed(["a"], file, model=str(tmp_path / "model")).cached == 1
    assert sum(forwards) == 1


def test_values_at_the_edge_of_float32_come_back_as_they_were(file: Path) -> None:
    edge = np.array([[-0.0, 1e-45, -3.4028235e38, 1.1754944e-38]], dtype=np.float32)
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(1), edge)
    assert cache.get(keys_of(1), 4)[key_of(1)].tobytes() == edge.tobytes()


# And nothing else


def test_every_field_of_the_specification_has_a_change_below() -> None:
    assert {field.name for field in dataclasses.fields(Specification)} == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_the_specification_separates_keys(field: str) -> None:
    other = dataclasses.replace(SPECIFICATION, **{field: CHANGES[field]})
    assert make_keys(other, ["a"]) != make_keys(SPECIFICATION, ["a"])
    assert make_keys(dataclasses.replace(SPECIFICATION), ["a"]) == make_keys(SPECIFICATION, ["a"])


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=2, unique=True))
def test_no_two_prompts_and_texts_have_one_key(pairs: list[tuple[str, str]]) -> None:
    keys = {make_keys(dataclasses.replace(SPECIFICATION, prompt=prompt), [text])[0] for prompt, text in pairs}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 16},
        {"pooling": "mean"},
        {"normalize": False},
        {"max_tokens": 100},
        {"document_instruction": "passage: "},
        {"on_long_text": "error"},
        {"model": "builtin"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_text_under_another_setting_is_another_text(change: dict[str, Any], file: Path) -> None:
    embed(["a", "b"], file)
    other = embed(["a", "b"], file, **change)
    assert other.cached == 0
    assert embed(["b", "a"], file, **change).vectors[::-1].tobytes() == other.vectors.tobytes()
    np.testing.assert_allclose(other.vectors, embed(["a", "b"], None, **change).vectors, atol=1e-5)


def test_a_query_is_found_as_a_document_only_where_the_prompts_are_equal(file: Path) -> None:
    document = embed(["a"], file).vectors
    query = embed(["a"], file, kind="query")
    assert query.cached == 0
    assert float(np.abs(query.vectors - document).max()) > 1e-3
    plain = embed(["a"], file, kind="query", query_instruction="")
    assert plain.cached == 1
    assert plain.vectors.tobytes() == document.tobytes()


def test_a_text_cached_cut_is_still_too_long_where_that_is_an_error(file: Path) -> None:
    long = "long " * 40
    embed(["a", long], file, max_tokens=40)
    embed(["a"], file, max_tokens=40, on_long_text="error")
    with pytest.raises(TextTooLong, match="Text 3 has 122 tokens, but the limit is 40,"):
        embed(["a", "b", "a", long], file, max_tokens=40, on_long_text="error")


def test_a_bad_vector_is_named_by_its_place_among_all_texts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(["a", "b"], file)
    monkeypatch.setattr(Model, "embed", lambda self, rows, **_: np.full((len(rows), WIDTH), np.nan, np.float32))
    with pytest.raises(EngineError, match="The model gave text 3 a vector that is not finite"):
        embed(["a", "b", "a", "c"], file)
    monkeypatch.undo()
    assert embed(["c"], file).cached == 0


def test_a_call_that_fails_midway_keeps_what_it_computed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = Model.embed, iter(range(9))

    def fails_at_the_third(self: Model, rows: list[Any], **options: Any) -> Vectors:
        if next(calls) == 2:
            raise EngineError("the third batch")
        return forward(self, rows, **options)

    monkeypatch.setattr(Model, "embed", fails_at_the_third)
    with pytest.raises(EngineError, match="the third batch"):
        embed(["a", "bb", "ccc", "dddd"], file, machine={"batch_size": 1})
    monkeypatch.undo()
    assert embed(["a", "bb", "ccc", "dddd"], file).cached == 2


# Damaged rows


DAMAGE: Final = {
    "a bit of the vector": "vector = CAST(x'FF' || substr(vector, 2) AS BLOB)",
    "the checksum": "checksum = zeroblob(16)",
    "a short vector": "vector = substr(vector, 1, 64)",
    "no vector": "vector = x''",
    "text that is no UTF-8": "vector = CAST(x'C0C1F5FF' AS TEXT)",
    "a number": "vector = 12",
    "another's row": "vector = (SELECT vector FROM vectors WHERE id = 2), "
    "checksum = (SELECT checksum FROM vectors WHERE id = 2)",
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_is_computed_again_and_written_anew(change: str, file: Path, forwards: list[int]) -> None:
    vectors = embed(["a", "b", "c"], file).vectors
    close_caches()
    with opened(file) as connection:
        connection.execute(f"UPDATE vectors SET {change} WHERE id = 1")
    forwards.clear()

    again = embed(["a", "b", "c"], file)
    np.testing.assert_allclose(again.vectors, vectors, atol=1e-5)
    assert (again.cached, sum(forwards)) == (2, 1)
    assert embed(["a", "b", "c"], file).cached == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 4 * WIDTH - 1), mask=st.integers(1, 255))
def test_no_changed_byte_of_a_vector_goes_unseen(tmp_path: Path, place: int, mask: int) -> None:
    cache = VectorCache(tmp_path / "one for all examples", ROOMY)
    cache.put(keys_of(1), random_vectors(1))
    blob = bytearray(random_vectors(1).tobytes())
    blob[place] ^= mask
    with opened(cache.path) as connection:
        connection.execute("UPDATE vectors SET vector = ?", (bytes(blob),))
    assert cache.get(keys_of(1), WIDTH) == {}
    cache.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_not_found_although_its_checksum_is_right(value: float, file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    vectors = random_vectors(2)
    cache.put(keys_of(1, 2), vectors)
    vectors[0, 5] = value
    blob = vectors[0].tobytes()
    with opened(file) as connection:
        connection.execute(
            "UPDATE vectors SET vector = ?, checksum = ? WHERE id = 1", (blob, _checksum(key_of(1), blob))
        )
    assert set(cache.get(keys_of(1, 2), WIDTH)) == {key_of(2)}


def test_a_vector_of_another_width_is_not_found(file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(1), random_vectors(1))
    assert cache.get(keys_of(1), WIDTH - 1) == {}
    assert set(cache.get(keys_of(1), WIDTH)) == {key_of(1)}


# Other files


def database(*statements: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with opened(file) as connection:
            for statement in statements:
                connection.execute(statement)

    return write


MARK: Final = f"PRAGMA application_id = {APPLICATION_ID}"
FOREIGN: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "a letter": (lambda file: file.write_bytes(b"a"), "it is no database of SQLite"),
    "a text": (lambda file: file.write_text("Dear diary, " * 1000), "it is no database of SQLite"),
    "another database": (
        database("CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')"),
        "it is the database of another program",
    ),
    "another database in WAL mode": (
        database("PRAGMA journal_mode = WAL", "CREATE TABLE vectors (id)"),
        "it is the database of another program",
    ),
    "an empty database": (database("PRAGMA user_version = 0", "VACUUM"), "it is the database of another program"),
    "another table": (
        database(MARK, f"PRAGMA user_version = {SCHEMA_VERSION}", *SCHEMA, "CREATE TABLE more (id)"),
        "its tables are not those of version 1",
    ),
    "a trigger": (
        database(
            MARK,
            f"PRAGMA user_version = {SCHEMA_VERSION}",
            *SCHEMA,
            "CREATE TRIGGER t AFTER INSERT ON vectors BEGIN DELETE FROM vectors; END",
        ),
        "its tables are not those of version 1",
    ),
    "a later version": (database(MARK, "PRAGMA user_version = 2", *SCHEMA), "its tables are not those of version 1"),
    "a beginning": (lambda file: file.write_bytes(b"SQLite format 3\0"), "it is the database of another program"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_no_cache_is_refused_and_left_as_it_is(name: str, file: Path) -> None:
    write, why = FOREIGN[name]
    write(file)
    before, beside = file.read_bytes(), set(file.parent.iterdir())
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"is no vector cache: {why}.* Set embedding_cache to a file of its own"):
            embed(["a"], file)
    assert file.read_bytes() == before
    assert set(file.parent.iterdir()) == beside


def test_a_folder_and_a_pipe_are_no_caches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        VectorCache(tmp_path, ROOMY)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="it is no regular file"):
        VectorCache(tmp_path / "pipe", ROOMY)


def test_a_file_is_refused_before_a_model_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        embed(["a"], tmp_path, model="./no-such-folder")


def test_an_empty_file_becomes_a_cache(file: Path) -> None:
    file.touch()
    embed(["a"], file)
    assert embed(["a"], file).cached == 1


# What goes wrong in use


def assert_set_aside(file: Path, why: str = "") -> None:
    """The next call is right and gives one warning, the call after that none; then nothing is cached."""
    want = embed(["a", "b", "new"], None).vectors
    with pytest.warns(
        CacheSetAside, match=f"is left aside until this program ends.*{why}.*every text is computed"
    ) as caught:
        found = embed(["a", "b", "new"], file)
    assert len(caught) == 1
    np.testing.assert_allclose(found.vectors, want, atol=1e-5)
    again = embed(["a", "b", "new"], file)  # a second warning would be an error
    assert again.cached == 0
    np.testing.assert_allclose(again.vectors, want, atol=1e-5)


@pytest.mark.parametrize("keep", [100, 4096, 10_000])
def test_a_truncated_file_is_set_aside(keep: int, file: Path) -> None:
    embed(["a", "b"], file)
    close_caches()
    os.truncate(file, keep)
    assert_set_aside(file)
    assert file.stat().st_size == keep


def test_a_file_damaged_in_its_middle_is_set_aside(file: Path) -> None:
    embed(["a", "b"], file)
    close_caches()
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    assert_set_aside(file)


def test_a_file_overwritten_while_it_is_open_is_set_aside(file: Path) -> None:
    embed(["a", "b"], file)
    with opened(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as stream:
        stream.write(b"no database any more " * 2000)
    with pytest.warns(CacheSetAside, match="is left aside"):
        found = embed(["a", "new"], file)
    np.testing.assert_allclose(found.vectors, embed(["a", "new"], None).vectors, atol=1e-5)


def test_a_file_deleted_while_it_is_open_is_made_again(file: Path) -> None:
    embed(["a"], file)
    file.unlink()
    assert embed(["a"], file).cached == 0
    assert embed(["a"], file).cached == 1
    assert file.exists()


def test_a_file_replaced_while_it_is_open_is_the_one_that_counts(file: Path, tmp_path: Path) -> None:
    embed(["b"], tmp_path / "other")
    close_caches()
    embed(["a"], file)
    os.replace(tmp_path / "other", file)
    assert embed(["a", "b"], file).cached == 1
    assert embed(["a", "b"], file).cached == 2


def test_another_programs_file_in_its_place_is_left_alone(file: Path, tmp_path: Path) -> None:
    embed(["a", "b"], file)
    database("CREATE TABLE notes (text)")(tmp_path / "other")
    os.replace(tmp_path / "other", file)
    before = file.read_bytes()
    assert_set_aside(file, "it is the database of another program")
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere, but makes no file in /proc
        folder = Path("/proc")
    assert_set_aside(folder / "vectors")


def test_a_path_below_a_file_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_set_aside(tmp_path / "file/vectors")


def take_the_right_to_write(cache: VectorCache) -> None:
    """As SQLite itself opens a file whose rights forbid it; those of a file do not bind root, who may run this."""
    cache.close()
    cache._connect()
    assert cache._connection is not None
    cache._connection.close()
    cache._connection = sqlite3.connect(
        f"{cache.path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )


@pytest.mark.parametrize("hindrance", ["another's lock", "no right to write"])
def test_a_last_use_that_cannot_be_written_costs_no_vector_and_no_wait(hindrance: str, file: Path) -> None:
    clock = Clock()
    cache = VectorCache(file, ROOMY, busy_timeout_s=30, clock=clock)
    cache.put(keys_of(1, 2, 3), random_vectors(3))
    clock.now += USE_PRECISION_S + 1
    with opened(file) as other:
        if hindrance == "another's lock":
            other.execute("BEGIN IMMEDIATE")
        else:
            take_the_right_to_write(cache)
        start = time.monotonic()
        found = cache.get(keys_of(1, 2, 3), WIDTH)
        waited = time.monotonic() - start
    assert set(found) == set(keys_of(1, 2, 3))
    assert not cache.is_aside
    assert waited < 15, f"the lock was waited for {waited:.1f} s"


def test_a_file_that_another_has_locked_is_opened_and_read(file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(1), random_vectors(1))
    cache.close()
    with opened(file) as other:
        other.execute("BEGIN IMMEDIATE")
        cache = VectorCache(file, ROOMY, busy_timeout_s=0.01)
        assert set(cache.get(keys_of(1), WIDTH)) == {key_of(1)}
    assert not cache.is_aside


def test_a_last_use_is_written_once_the_lock_has_gone(file: Path) -> None:
    clock = Clock()
    cache = VectorCache(file, ROOMY, clock=clock)
    cache.put(keys_of(1), random_vectors(1))
    start = clock.now
    clock.now += USE_PRECISION_S + 1
    with opened(file) as other:
        other.execute("BEGIN IMMEDIATE")
        cache.get(keys_of(1), WIDTH)
        other.execute("ROLLBACK")
        assert other.execute("SELECT used FROM vectors").fetchone() == (start,)
        cache.get(keys_of(1), WIDTH)
        assert other.execute("SELECT used FROM vectors").fetchone() == (clock.now,)
    assert cache._connection is not None
    assert cache._connection.execute("PRAGMA busy_timeout").fetchone() == (BUSY_TIMEOUT_S * 1000,)


def test_damage_that_only_the_last_use_meets_costs_no_vector(file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(1, 2, 3), random_vectors(3))
    cache.close()
    with opened(file) as connection:
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'vectors_by_use'").fetchone()
    with file.open("r+b") as stream:
        stream.seek((page - 1) * PAGE_BYTES)
        stream.write(b"\xa5" * PAGE_BYTES)
    cache = VectorCache(file, ROOMY, clock=lambda: 0)
    with pytest.warns(CacheSetAside, match="malformed"):
        found = cache.get(keys_of(1, 2, 3), WIDTH)
    assert set(found) == set(keys_of(1, 2, 3))


def test_vectors_that_meet_a_lock_are_left_out_and_no_others(file: Path) -> None:
    cache = VectorCache(file, ROOMY, busy_timeout_s=0.01)
    cache.put(keys_of(1), random_vectors(1))
    with opened(file) as other:
        for number in (2, 4):  # one that is stored in between ends the row of locks
            other.execute("BEGIN IMMEDIATE")
            for _ in range(LOCKS_IN_A_ROW - 1):
                cache.put(keys_of(number), random_vectors(1))
            assert set(cache.get(keys_of(1, number), WIDTH)) == {key_of(1)}  # readers do not wait
            other.execute("ROLLBACK")
            cache.put(keys_of(number + 1), random_vectors(1))
    assert not cache.is_aside
    assert set(cache.get(keys_of(1, 2, 3, 4, 5), WIDTH)) == set(keys_of(1, 3, 5))


def test_a_lock_that_is_met_again_and_again_sets_the_cache_aside(file: Path) -> None:
    cache = VectorCache(file, ROOMY, busy_timeout_s=0.01)
    cache.put(keys_of(1), random_vectors(1))
    parts = LOCKS_IN_A_ROW - 1
    with opened(file) as other:
        other.execute("BEGIN IMMEDIATE")
        cache.put(keys_of(*range(parts * ROWS_AT_ONCE)), random_vectors(parts * ROWS_AT_ONCE))
        assert not cache.is_aside
        with pytest.warns(CacheSetAside, match="database is locked"):
            cache.put(keys_of(2), random_vectors(1))
        other.execute("ROLLBACK")
    assert cache.is_aside
    assert cache.get(keys_of(1), WIDTH) == {}


def test_a_file_without_the_right_to_write_is_set_aside_by_the_first_vector_to_store(file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(1), random_vectors(1))
    take_the_right_to_write(cache)
    assert set(cache.get(keys_of(1), WIDTH)) == {key_of(1)}
    with pytest.warns(CacheSetAside, match="readonly database"):
        cache.put(keys_of(2), random_vectors(1))
    assert cache.is_aside


def test_a_full_disk_sets_the_cache_aside_and_no_call_fails(file: Path) -> None:
    code = """
import resource, warnings
from pathlib import Path
from chroma_mlx.errors import CacheSetAside
from chroma_mlx import MLXEmbeddingFunction
function = MLXEmbeddingFunction("builtin", device="cpu", embedding_cache=sys.argv[1])
texts = [f"text {number}" for number in range(300)]
before = function.encode(texts[:1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    vectors = [function.encode(texts) for _ in range(2)]
assert [each.category for each in caught] == [CacheSetAside], caught
assert abs(vectors[0] - vectors[1]).max() < 1e-5
assert abs(vectors[0][:1] - before).max() < 1e-5
"""
    run_python(code, file)
    assert embed(["text 0"], file, model="builtin").cached == 1


# Processes and threads


def test_processes_that_make_and_fill_one_file_lose_nothing(file: Path) -> None:
    code = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from test_vector_cache import ROOMY, WIDTH, VectorCache, keys_of, random_vectors
own = int(sys.argv[2])
print("ready", flush=True); sys.stdin.readline()
cache = VectorCache(Path(sys.argv[1]), ROOMY)
for start in range(0, 600, 30):
    numbers = range(own * 300 + start, own * 300 + start + 30)  # each writes half of its neighbour's too
    for number in numbers:
        cache.put(keys_of(number), random_vectors(1, seed=number))
    assert len(cache.get(keys_of(*numbers), WIDTH)) == 30
"""
    workers = [
        subprocess.Popen(
            [*command(code), str(file), str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    ends = [worker.communicate("go\n", timeout=120) for worker in workers]
    assert [(worker.returncode, errors) for worker, (_, errors) in zip(workers, ends, strict=True)] == [(0, "")] * 3
    found = VectorCache(file, ROOMY).get(keys_of(*range(1200)), WIDTH)
    for number in range(1200):
        assert found[key_of(number)].tobytes() == random_vectors(1, seed=number).tobytes()
    with opened(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_eight_threads_share_one_file(file: Path) -> None:
    texts = read_texts()
    want = embed(texts, None).vectors

    def work(start: int) -> tuple[int, Embedded]:
        return start, embed(texts[start:] + texts[:start], file, machine={"batch_size": 2})

    with ThreadPoolExecutor(8) as pool:
        for start, found in pool.map(work, list(range(len(texts))) * 2):
            np.testing.assert_allclose(found.vectors, np.roll(want, -start, axis=0), atol=1e-5)
    assert embed(texts, file).cached == len(texts)


def test_functions_of_one_file_share_one_opening(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with ThreadPoolExecutor(8) as pool:
        caches = list(pool.map(lambda place: shared_cache((file, tmp_path / "link")[place % 2], 1.0), range(16)))
    assert len({id(cache) for cache in caches}) == 1
    assert caches[0] is not None
    assert caches[0].max_bytes == 10**9


FORK: Final = f"""
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's BLAS has threads, which Python 3.12 warns of
sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from test_vector_cache import ROOMY, WIDTH, VectorCache, keys_of, random_vectors
cache = VectorCache(Path(sys.argv[1]), ROOMY)
cache.put(keys_of(1), random_vectors(1))
parents = cache._connection
child = fork()
if child == 0:
    try:
        assert cache._connection is None
        assert len(cache.get(keys_of(1), WIDTH)) == 1
        cache.put(keys_of(2), random_vectors(1))
        cache.close()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
cache.put(keys_of(3), random_vectors(1))
assert len(cache.get(keys_of(1, 2, 3), WIDTH)) == 3
cache.close()
"""


def test_a_forked_child_opens_the_file_for_itself(file: Path) -> None:
    run_python("from os import fork\n" + FORK, file)


def test_a_child_of_a_fork_that_python_was_not_asked_before_does_too(file: Path) -> None:
    code = """
import ctypes
def fork():
    child = ctypes.PyDLL(None).fork()  # as application servers do
    if child == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return child
"""
    run_python(code + FORK, file)


def test_a_fork_while_threads_write_leaves_no_lock_behind(file: Path) -> None:
    code = f"""
import os, threading, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from test_vector_cache import ROOMY, WIDTH, VectorCache, keys_of, random_vectors
warnings.simplefilter("ignore", DeprecationWarning)  # Python says that forking with threads is a risk: so it is
cache = VectorCache(Path(sys.argv[1]), ROOMY)
stop = threading.Event()
vectors = random_vectors(1)  # made here: NumPy's module of random numbers takes a lock when it is asked for
def write(seed):
    number = seed
    while not stop.is_set():
        cache.put(keys_of(number), vectors)
        number += 4
threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
for thread in threads: thread.start()
for each in range(10):
    child = os.fork()
    if child == 0:
        cache.put(keys_of(2**62 + each), vectors)
        os._exit(0 if not cache.is_aside else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
assert not cache.is_aside
assert len(cache.get(keys_of(*range(2**62, 2**62 + 10)), WIDTH)) == 10
"""
    run_python(code, file)


# The bound


def test_those_used_least_recently_leave_first(file: Path) -> None:
    clock = Clock()
    cache = VectorCache(file, 4_000_000, clock=clock)
    for number in range(0, 600, 100):
        cache.put(keys_of(*range(number, number + 100)), random_vectors(100, 1024))
        clock.now += 10_000
    assert len(cache.get(keys_of(*range(100)), 1024)) == 100  # the first that came are used again
    clock.now += 10_000
    numbers = range(600, 1000)
    for start in range(600, 1000, 100):
        cache.put(keys_of(*range(start, start + 100)), random_vectors(100, 1024))
        clock.now += 10_000

    there = [len(cache.get(keys_of(*range(start, start + 100)), 1024)) for start in range(0, 1000, 100)]
    assert there[0] == 100, f"what was used again has left: {there}"
    assert there[1] == 0, f"what was used least recently is there: {there}"
    assert there[6:] == [100] * (len(numbers) // 100), f"what came last has left: {there}"
    assert there[1:] == sorted(there[1:]), f"something left before what was used earlier: {there}"


def test_a_last_use_is_written_only_when_it_is_some_minutes_off(file: Path) -> None:
    clock = Clock()
    cache = VectorCache(file, ROOMY, clock=clock)
    cache.put(keys_of(1), random_vectors(1))

    def used() -> int:
        cache.get(keys_of(1), WIDTH)
        with opened(file) as connection:
            return int(connection.execute("SELECT used FROM vectors").fetchone()[0])

    start = clock.now
    clock.now = start + USE_PRECISION_S
    assert used() == start
    clock.now += 1
    assert used() == clock.now
    clock.now = start - 5 * USE_PRECISION_S  # a clock that was put right
    assert used() == clock.now


@pytest.mark.parametrize("dimension", [8, 384, 768, 1024, 1536, 2560, 4096])
def test_the_file_stays_below_its_bound_whatever_the_width(dimension: int, file: Path) -> None:
    bound = 6_000_000
    cache = VectorCache(file, bound)
    rows = min(2 * bound // (4 * dimension), 4_000)
    for start in range(0, rows, 500):
        part = keys_of(*range(start, min(start + 500, rows)))
        cache.put(part, random_vectors(len(part), dimension))
        with opened(file) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert file.stat().st_size <= bound
    assert not cache.is_aside
    assert set(cache.get(part, dimension)) >= set(part[-100:])
    filled = len(cache.get(keys_of(*range(rows)), dimension)) * dimension * 4
    assert rows == 4_000 or filled > 0.3 * bound, f"only {filled:,} bytes of vectors in {bound:,}"


def test_a_file_over_a_bound_that_was_lowered_shrinks(file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(*range(2_000)), random_vectors(2_000, 1024))
    cache.close()
    assert file.stat().st_size > 8_000_000
    lowered = VectorCache(file, 3_000_000)
    for number in range(5_000, 5_008):
        lowered.put(keys_of(number), random_vectors(1, 1024))
    assert len(lowered.get(keys_of(5_007), 1024)) == 1
    lowered.close()
    assert file.stat().st_size <= 3_000_000


def test_a_bound_that_nothing_fits_into_stores_nothing(file: Path) -> None:
    cache = VectorCache(file, 1)
    cache.put(keys_of(*range(10)), random_vectors(10))
    assert cache.get(keys_of(*range(10)), WIDTH) == {}
    assert not cache.is_aside
    cache.close()
    assert file.stat().st_size <= 20_480


def test_more_rows_than_a_transaction_has_are_all_stored(file: Path) -> None:
    cache = VectorCache(file, ROOMY)
    rows = 2 * ROWS_AT_ONCE + 7
    vectors = random_vectors(rows)
    cache.put(keys_of(*range(rows)), vectors)
    found = cache.get(keys_of(*range(rows)), WIDTH)
    assert np.stack([found[key_of(row)] for row in range(rows)]).tobytes() == vectors.tobytes()


# Where it is set


def test_without_a_path_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shared_cache(None, 1.0) is None
    assert embed(["a"], None).cached == embed(["a"], None).cached == 0
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_the_file_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHROMA_MLX_EMBEDDING_CACHE", "~/some/folder/vectors")
    MLXEmbeddingFunction(FOLDER, device="cpu")(["a"])
    mode = (tmp_path / "some/folder/vectors").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_router_and_a_function_share_a_configured_file(file: Path, forwards: list[int]) -> None:
    config = EmbeddingConfig(model_name=FOLDER, device="cpu", embedding_cache=file)
    vectors = EmbeddingRouter(config).embed(["a", "b"])
    assert MLXEmbeddingFunction(config=config).encode(["a", "b"]).tobytes() == vectors.tobytes()
    assert sum(forwards) == 2


def test_a_check_of_the_model_computes_whatever_is_cached(file: Path, forwards: list[int]) -> None:
    router = EmbeddingRouter(model_name="builtin", device="cpu", embedding_cache=file)
    assert router.health_check()
    assert router.health_check()
    assert sum(forwards) == 2
    assert verify_model(router.config).verdict == "right"
    assert not file.exists()
