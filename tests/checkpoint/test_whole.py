"""When a model in the cache counts as whole, and what becomes of one of which nobody can tell."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import numpy as np
import pytest
from hub_cache import put_into_cache
from hub_client import client_of, contents, go_offline, go_online
from hub_server import HubServer
from small import CHECKPOINTS, write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint.cache import list_cached
from chroma_mlx.checkpoint.download import ATTEMPTS, download
from chroma_mlx.checkpoint.listing import write_whole
from chroma_mlx.checkpoint.locate import locate
from chroma_mlx.checkpoint.snapshot import find_cached, find_snapshot
from chroma_mlx.engine.model import unload_models
from chroma_mlx.errors import CheckpointError, DownloadError, UncheckedModel
from chroma_mlx.models.known import KNOWN_MODELS

REPO: Final = "someone/some-model"
WEIGHTS: Final = "model.safetensors"
POOLING: Final = "1_Pooling/config.json"
# What AutoModel and AutoTokenizer fetch, one by one: the sentence-transformers files are none of theirs.
OF_TRANSFORMERS: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS)
# What mlx-lm fetches, by the client's function for whole repositories.
OF_MLX_LM: Final = ["*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]


@contextmanager
def hub_of(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repo: str = REPO) -> Iterator[HubServer]:
    with HubServer.of_folder(repo, folder) as server, client_of(server, monkeypatch, tmp_path):
        yield server


@pytest.fixture
def bert(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with a BERT that pools the first token, which only a file of its own says."""
    with hub_of(CHECKPOINTS / "bert-cls", monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch_as_transformers(server: HubServer, cache: Path) -> None:
    for name in OF_TRANSFORMERS:
        if name in server.files:
            huggingface_hub.hf_hub_download(server.repo, name, cache_dir=cache)


def find(cache: Path, *, repo: str = REPO, auto_download: bool = True) -> Path:
    return locate(repo, cache_path=cache, auto_download=auto_download, show_progress=False)


def forget_clients_listings(cache: Path) -> None:
    """As if the client were an older one, which keeps no listing of a commit."""
    for folder in cache.glob("models--*/trees"):
        shutil.rmtree(folder)
    if importlib.util.find_spec("huggingface_hub._tree_cache"):
        kept: dict[str, Any] = importlib.import_module("huggingface_hub._tree_cache").__dict__["_IN_MEMORY_TREE_CACHE"]
        kept.clear()


def wanted(server: HubServer) -> dict[str, bytes]:
    return {name: content for name, content in server.files.items() if name.endswith((".json", ".safetensors"))}


# Fetched in part by another program


def test_what_another_program_fetched_in_part_is_completed_and_not_fetched_again(bert: HubServer, cache: Path) -> None:
    fetch_as_transformers(bert, cache)
    assert find_cached(REPO, cache) is None
    bert.behave()

    folder = find(cache)

    assert contents(folder) == wanted(bert)
    assert POOLING in bert.sent
    assert WEIGHTS not in bert.sent
    assert find_cached(REPO, cache) == folder
    ours = MLXEmbeddingFunction(REPO, cache_dir=cache).encode(["a text"])
    assert np.array_equal(ours, MLXEmbeddingFunction(str(CHECKPOINTS / "bert-cls")).encode(["a text"]))
    unload_models()


def test_dense_layers_that_another_program_left_out_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    with hub_of(CHECKPOINTS / "gemma-official", monkeypatch, tmp_path) as server:
        fetch_as_transformers(server, cache)
        server.behave()
        vectors = MLXEmbeddingFunction(REPO, cache_dir=cache).encode(["a text"])
        assert WEIGHTS not in server.sent
        assert "2_Dense/model.safetensors" in server.sent
    (model,) = list_cached(cache, named=[REPO])
    assert (model.whole, model.ours) == (True, False), "what another program began is taken for ours"
    assert np.array_equal(vectors, MLXEmbeddingFunction(str(CHECKPOINTS / "gemma-official")).encode(["a text"]))
    unload_models()


def test_the_commit_that_is_there_is_completed_wherever_the_branch_is_by_now(bert: HubServer, cache: Path) -> None:
    fetch_as_transformers(bert, cache)
    bert.behave()
    assert find(cache).name == bert.commit
    assert bert.count("/api/models")
    assert all(bert.commit in each.path for each in bert.requests("/api/models"))


# The Hub cannot be asked


def test_what_may_lack_its_pooling_is_used_offline_with_a_warning(
    bert: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_as_transformers(bert, cache)
    folder = find_snapshot(REPO, cache)
    assert folder is not None
    go_offline(monkeypatch)
    with pytest.warns(
        UncheckedModel, match=r"may not be all: .*could not be asked \(OfflineModeIsEnabled\).*own, which"
    ):
        assert find(cache) == folder.folder
    with pytest.warns(UncheckedModel, match="it may not be downloaded now.*models download someone/some-model"):
        assert find(cache, auto_download=False) == folder.folder


def test_a_hub_that_does_not_answer_is_asked_once_for_what_is_there(bert: HubServer, cache: Path) -> None:
    fetch_as_transformers(bert, cache)
    bert.behave()
    bert.refuse("/api/models", 503)
    with pytest.warns(UncheckedModel, match="the Hub could not be asked"):
        find(cache)
    assert bert.count("/api/models") == 1


def test_a_model_whose_own_files_show_that_they_are_all_is_used_offline_without_a_word(
    bert: HubServer, cache: Path
) -> None:
    for name in wanted(bert):
        huggingface_hub.hf_hub_download(REPO, name, cache_dir=cache)
    bert.behave()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = find(cache, auto_download=False)
    assert contents(folder) == wanted(bert)
    assert bert.asked == []


def test_dense_layers_that_are_not_there_are_an_error_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    with hub_of(CHECKPOINTS / "gemma-official", monkeypatch, tmp_path) as server:
        fetch_as_transformers(server, cache)
    function = MLXEmbeddingFunction(REPO, cache_dir=cache, auto_download=False)
    with (
        pytest.warns(UncheckedModel, match="may not be all"),
        pytest.raises(CheckpointError, match=r"has no dense\.0\.weight: the dense layers"),
    ):
        function.encode(["a text"])


def test_the_tables_pooling_holds_for_a_known_model_whose_files_do_not_declare_it(tmp_path: Path, cache: Path) -> None:
    bge = KNOWN_MODELS["bge-small-en-v1.5"]
    assert bge.repo_id is not None
    source = tmp_path / "source"
    source.mkdir()
    for name in OF_TRANSFORMERS:
        shutil.copyfile(CHECKPOINTS / "bert-cls" / name, source / name)
    put_into_cache(cache, bge.repo_id, source, listed=False)
    with pytest.warns(UserWarning) as warned:  # noqa: PT030 - both kinds are matched below
        vectors = MLXEmbeddingFunction(bge.name, cache_dir=cache, auto_download=False).encode(["a text"])
    messages = [str(each.message) for each in warned if each.category is UncheckedModel]
    assert len(messages) == 1
    assert "it is taken to be the table's, 'cls'" in messages[0]
    assert np.array_equal(vectors, MLXEmbeddingFunction(str(CHECKPOINTS / "bert-cls")).encode(["a text"]))
    unload_models()


# A conversion, as mlx-lm fetches it


def test_a_conversion_that_mlx_lm_fetched_works_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    with hub_of(write_checkpoint(tmp_path / "source"), monkeypatch, tmp_path) as server:
        theirs = Path(huggingface_hub.snapshot_download(REPO, cache_dir=cache, allow_patterns=OF_MLX_LM))
        go_offline(monkeypatch)
        if list(cache.glob("models--*/trees/*.json")):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert find(cache) == theirs
            assert find_cached(REPO, cache) == theirs
        forget_clients_listings(cache)
        with pytest.warns(UncheckedModel, match="may not be all"):
            assert find(cache) == theirs
        go_online(monkeypatch)
        server.behave()
        assert find(cache) == theirs
        assert not server.sent, "what is there was fetched again"
        assert find_cached(REPO, cache) == theirs


# Downloads that fail


@pytest.mark.parametrize("client_keeps_listings", [True, False])
def test_a_download_that_failed_at_its_last_file_is_not_whole(
    bert: HubServer, cache: Path, client_keeps_listings: bool
) -> None:
    bert.refuse(POOLING, 403)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        download(REPO, revision=None, cache_path=cache, show_progress=False)
    if not client_keeps_listings:
        forget_clients_listings(cache)
        note_branch(cache, bert)  # as such a client does before it has the files
    assert find_cached(REPO, cache) is None
    with pytest.raises(DownloadError, match="could not be downloaded"):
        find(cache)
    bert.behave()
    assert contents(find(cache)) == wanted(bert)
    assert find_cached(REPO, cache) is not None


def test_a_hub_that_fails_in_between_leaves_nothing_that_counts_as_whole(bert: HubServer, cache: Path) -> None:
    huggingface_hub.hf_hub_download(REPO, "config.json", cache_dir=cache)
    forget_clients_listings(cache)
    for part in ("/tree/", "/revision/"):  # by which clients of different ages list a commit
        bert.refuse(part, 500)
    waits: list[float] = []
    with pytest.raises(DownloadError, match=r"ended without 1_Pooling/config\.json"):
        download(REPO, revision=None, cache_path=cache, show_progress=False, sleep=waits.append)
    assert len(waits) == ATTEMPTS - 1
    assert find_cached(REPO, cache) is None


@pytest.mark.parametrize("name", [WEIGHTS, POOLING, "config.json"])
def test_a_model_of_which_a_file_went_or_was_cut_is_not_whole(bert: HubServer, cache: Path, name: str) -> None:
    folder = download(REPO, revision=None, cache_path=cache, show_progress=False)
    assert find_cached(REPO, cache) == folder
    blob = (folder / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    assert find_cached(REPO, cache) is None
    assert contents(find(cache)) == wanted(bert)
    blob.unlink()
    assert find_cached(REPO, cache) is None
    assert contents(find(cache)) == wanted(bert)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {}}', '{"files": []}', '{"files": {"a.json": 1}}'])
def test_a_note_that_cannot_be_read_notes_nothing(tmp_path: Path, cache: Path, content: str) -> None:
    snapshot = put_into_cache(cache, REPO, write_checkpoint(tmp_path / "source"))
    (note,) = cache.glob("models--*/chroma-mlx.*.json")
    note.write_text(content, encoding="utf-8")
    found = find_snapshot(REPO, cache)
    assert found is not None
    assert (found.folder, found.whole) == (snapshot, False)


def note_branch(cache: Path, server: HubServer) -> None:
    ref = cache / "models--someone--some-model" / "refs" / "main"
    ref.parent.mkdir(exist_ok=True)
    ref.write_text(server.commit, encoding="utf-8")


def test_what_a_download_writes_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "refs" / "main", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "refs" / "main").stat().st_mode) == 0o644
    assert [file.name for file in (tmp_path / "refs").iterdir()] == ["main"]
