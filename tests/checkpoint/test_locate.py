"""Where a model is looked for, and what is said when it is not there. Nothing here reaches a network."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_cache import put_into_cache
from small import write_checkpoint

from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER, locate
from chroma_mlx.checkpoint.snapshot import find_cached
from chroma_mlx.errors import DownloadError, ModelNotFound

ROOT = Path(__file__).parent.parent.parent
REPO = "someone/some-model"


def find(name: str, cache: Path | None = None) -> Path:
    return locate(name, cache_path=cache, auto_download=False, show_progress=False)


def write_cached(cache: Path, *, whole: bool = True) -> Path:
    """A model that this program has downloaded; its weights were removed unless it is `whole`."""
    snapshot = put_into_cache(cache, REPO, write_checkpoint(cache / "source"))
    if not whole:
        (snapshot / "model.safetensors").unlink()
    return snapshot


def test_the_built_in_model_is_inside_the_package() -> None:
    assert find("builtin") == BUILTIN_FOLDER
    assert (BUILTIN_FOLDER / "config.json").is_file()


def test_a_folder_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(str(folder)) == folder
    assert find("some/model").resolve() == folder.resolve()
    assert find("~/some/model") == folder


@pytest.mark.parametrize(
    ("name", "close"),
    [("qwen3-0.6b-4bits", "qwen3-0.6b-4bit"), ("buildin", "builtin"), ("Qwen3-4b-bf16", "qwen3-4b-bf16")],
)
def test_a_misspelt_short_name_gets_the_closest_one(name: str, close: str) -> None:
    with pytest.raises(ModelNotFound, match=f"There is no model '{name}'.*Did you mean '{close}'.*The short names are"):
        find(name)


@pytest.mark.parametrize(
    "name", ["./models/mine", "../mine", "/no/such/folder", "~/no-such-folder", "a/b/c", "C:\\models"]
)
def test_a_folder_that_is_not_there_is_not_taken_for_a_repository(name: str) -> None:
    with pytest.raises(ModelNotFound, match="no folder on this disk, and no Hub repository id"):
        find(name)


def test_a_repository_in_the_cache_is_found_without_a_network(tmp_path: Path) -> None:
    snapshot = write_cached(tmp_path)
    assert find_cached(REPO, tmp_path) == snapshot
    assert find(REPO, tmp_path) == snapshot


def test_an_interrupted_download_is_not_taken_for_the_model(tmp_path: Path) -> None:
    write_cached(tmp_path, whole=False)
    assert find_cached(REPO, tmp_path) is None


def test_a_model_that_may_not_be_downloaded_says_how_to_get_it_by_hand(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"auto_download is off.*hf download {REPO} --local-dir some-model"):
        find(REPO, tmp_path)
    with pytest.raises(
        DownloadError, match=r"'qwen3-0\.6b-4bit' \(mlx-community/.*The model 'builtin' needs no download"
    ):
        find("qwen3-0.6b-4bit", tmp_path)


def test_without_a_network_the_answer_is_quick_and_names_the_manual_way(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from chroma_mlx.checkpoint.locate import locate;"
        f"locate({REPO!r}, cache_path=Path({str(tmp_path)!r}), auto_download=True, show_progress=False)"
    )
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **offline},
    )
    seconds = time.monotonic() - started
    assert "chroma_mlx.errors.DownloadError: The model someone/some-model is not cached" in run.stderr, run.stderr
    assert f"hf download {REPO} --local-dir some-model" in run.stderr
    assert seconds < 30, f"it took {seconds:.0f} s"
