"""A cache in which some folders may not be read, and some not be changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hub_cache import put_into_cache
from hub_server import HubServer
from small import write_checkpoint

from chroma_mlx.models.known import KNOWN_MODELS

ROOT: Final = Path(__file__).parent.parent.parent
QWEN: Final = "qwen3-0.6b-4bit"
WANTED: Final = "someone/some-model"
# The system's rights bind the superuser only without what makes it one.
BOUND: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
IS_ROOT: Final = hasattr(os, "geteuid") and os.geteuid() == 0

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or (IS_ROOT and shutil.which("setpriv") is None),
    reason="no folder can be closed to this user here",
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model of the table that this program fetched."""
    repo_id = KNOWN_MODELS[QWEN].repo_id
    assert repo_id is not None
    return put_into_cache(tmp_path / "hub", repo_id, write_checkpoint(tmp_path / "source")).parent.parent.parent


def run(cache: Path, *arguments: str, server: HubServer | None = None) -> subprocess.CompletedProcess[str]:
    """`python` with these arguments, as a user whom permissions bind."""
    settings = {"CHROMA_MLX_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    settings |= {"HF_ENDPOINT": server.endpoint if server else "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [*(BOUND if IS_ROOT else ()), sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cache.parent,
        env={**os.environ, **settings, "XDG_CONFIG_HOME": str(cache)},
    )


def run_models(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(cache, "-m", "chroma_mlx", "models", *arguments)


def set_mode(mode: int, *folders: Path) -> None:
    for folder in folders:
        folder.chmod(mode)


def test_what_may_not_be_changed_is_not_said_to_be_removed(cache: Path) -> None:
    (repository,) = cache.glob("models--*")
    folders = [repository, *(path for path in repository.rglob("*") if path.is_dir())]
    set_mode(0o500, *folders)
    for command in (["remove", QWEN, "--yes"], ["prune", "--max-gb", "0", "--yes"]):
        done = run_models(cache, *command)
        assert done.returncode == 1, done.stdout
        assert "are free now" not in done.stdout
        assert "could not be removed: 0.00 of 0.00 GB are still in" in done.stderr
        assert "Permission denied" in done.stderr
        assert "Traceback" not in done.stderr
    set_mode(0o700, *folders)
    done = run_models(cache, "remove", QWEN, "--yes")
    assert (done.returncode, repository.exists()) == (0, False), done.stderr


def test_another_programs_folder_that_may_not_be_read_hinders_nothing(cache: Path) -> None:
    closed = cache / "models--foreign--x"
    closed.mkdir()
    set_mode(0o000, closed)
    for command in (["list"], ["verify", QWEN], ["prune", "--max-gb", "1"], ["remove", QWEN, "--yes"]):
        done = run_models(cache, *command)
        assert (done.returncode, done.stderr) == (0, ""), command
    set_mode(0o700, closed)
    assert closed.exists()


def test_a_model_whose_folder_may_not_be_read_is_said_to_be_so(cache: Path) -> None:
    (repository,) = cache.glob("models--*")
    set_mode(0o000, repository)
    assert run_models(cache, "list").returncode == 0
    for command in ("path", "verify", "remove"):
        done = run_models(cache, command, QWEN, *(["--yes"] if command == "remove" else []))
        assert done.returncode == 1
        assert f"The models' cache {cache} cannot be used: [Errno 13] Permission denied" in done.stderr
        assert "set cache_dir or CHROMA_MLX_CACHE_DIR to another folder" in done.stderr
    set_mode(0o700, repository)


def test_a_text_is_embedded_though_the_cache_cannot_be_pruned(cache: Path, tmp_path: Path) -> None:
    (repository,) = cache.glob("models--*")
    closed = cache / "models--foreign--x"
    closed.mkdir()
    folders = [repository, *(path for path in repository.rglob("*") if path.is_dir())]
    set_mode(0o500, *folders)
    set_mode(0o000, closed)
    code = (
        "from chroma_mlx import MLXEmbeddingFunction; f = MLXEmbeddingFunction("
        f"{WANTED!r}, cache_dir={str(cache)!r}, max_cache_gb=1e-6, show_progress=False); print(f(['a text'])[0].shape)"
    )
    with HubServer.of_folder(WANTED, tmp_path / "source") as server:
        done = run(cache, "-c", code, server=server)
    set_mode(0o700, closed, *folders)
    assert done.stdout == "(32,)\n", done.stderr
    assert f"CacheNotPruned: The cache was not pruned to max_cache_gb: '{repository.name[8:].replace('--', '/')}'" in (
        done.stderr
    )
