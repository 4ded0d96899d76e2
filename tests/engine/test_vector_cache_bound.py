"""The file keeps to its bound, and those used least recently leave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cached_vectors import ROOMY, WIDTH, Clock, key_of, keys_of, opened, random_vectors

from chroma_mlx.engine.vector_cache import USE_PRECISION_S, VectorCache
from chroma_mlx.engine.vector_file import ROWS_AT_ONCE


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
