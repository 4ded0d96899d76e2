"""Damaged rows and files, and those of other programs: no wrong vector, no failed call, nothing overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from cached_vectors import ROOMY, WIDTH, embed, key_of, keys_of, opened, random_vectors, run_python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chroma_mlx.engine.vector_cache import VectorCache, _checksum, close_caches
from chroma_mlx.engine.vector_file import APPLICATION_ID, PAGE_BYTES, SCHEMA, SCHEMA_VERSION
from chroma_mlx.errors import CacheSetAside, ConfigError

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


def test_damage_that_sqlite_names_by_what_is_no_text_is_set_aside(file: Path) -> None:
    embed(["a", "b"], file)
    close_caches()
    content = file.read_bytes()
    assert content.count(b"indexvectors_by_use") == 1  # its kind and its name, in the table of all that there is
    file.write_bytes(content.replace(b"indexvectors_by_use", b"indexvectors_by_\xffse"))
    assert_set_aside(file, "malformed database schema .vectors_by_\N{REPLACEMENT CHARACTER}se")


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
