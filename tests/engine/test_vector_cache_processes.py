"""Processes, threads and forks share one file."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from cached_vectors import ROOMY, WIDTH, command, embed, key_of, keys_of, opened, random_vectors, run_python
from small import read_texts

from chroma_mlx.engine.encoder import Embedded
from chroma_mlx.engine.vector_cache import VectorCache, shared_cache


def test_processes_that_make_and_fill_one_file_lose_nothing(file: Path) -> None:
    code = """
from pathlib import Path
from cached_vectors import ROOMY, WIDTH, keys_of, random_vectors
from chroma_mlx.engine.vector_cache import VectorCache
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


FORK: Final = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's BLAS has threads, which Python 3.12 warns of
from pathlib import Path
from cached_vectors import ROOMY, WIDTH, keys_of, random_vectors
from chroma_mlx.engine.vector_cache import VectorCache
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
    code = """
import os, threading, warnings
from pathlib import Path
from cached_vectors import ROOMY, WIDTH, keys_of, random_vectors
from chroma_mlx.engine.vector_cache import VectorCache
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
