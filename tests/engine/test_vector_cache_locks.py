"""Another's lock, or no right to write, keeps no vector from being found."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from cached_vectors import ROOMY, WIDTH, Clock, key_of, keys_of, opened, random_vectors

from chroma_mlx.engine.vector_cache import BUSY_TIMEOUT_S, LOCKS_IN_A_ROW, USE_PRECISION_S, VectorCache
from chroma_mlx.engine.vector_file import ROWS_AT_ONCE
from chroma_mlx.errors import CacheSetAside


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
