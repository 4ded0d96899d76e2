"""Downloads by the real client of the Hub from a small Hub on loopback, which behaves and which does not."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import filelock
import huggingface_hub
import numpy as np
import pytest
from hub_client import CHUNK, client_of, contents, go_offline, use_endpoint
from hub_server import HubServer
from huggingface_hub import file_download
from safetensors.numpy import load, save
from small import write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint.cache import list_cached, verify_files
from chroma_mlx.checkpoint.download import ATTEMPTS, FIRST_WAIT_S, LONGEST_WAIT_S, download
from chroma_mlx.checkpoint.fetch import AppendingFile
from chroma_mlx.checkpoint.hub import read_retry_after
from chroma_mlx.checkpoint.locate import locate
from chroma_mlx.checkpoint.snapshot import find_cached
from chroma_mlx.errors import CorruptCheckpoint, DownloadError, ModelNotFound

ROOT: Final = Path(__file__).parent.parent.parent
REPO: Final = "someone/some-model"
WEIGHTS: Final = "model.safetensors"
BY_HAND: Final = f"hf download {REPO} --local-dir some-model"
OTHERS: Final = {"README.md": "# A model", "pytorch_model.bin": "no pickle is wanted", "onnx/model.onnx": "nor this"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = write_checkpoint(tmp_path / "source", files={"tokenizer_config.json": {"model_max_length": 512}})
    for name, content in OTHERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def server(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The small Hub, which the client in this process takes for the real one."""
    with HubServer.of_folder(REPO, checkpoint) as server, client_of(server, monkeypatch, tmp_path):
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(
    cache: Path, *, repo: str = REPO, show: bool | None = False, sleep: Callable[[float], None] | None = None
) -> Path:
    return download(repo, revision=None, cache_path=cache, show_progress=show, sleep=sleep or (lambda _: None))


def half(server: HubServer) -> int:
    return len(server.files[WEIGHTS]) // 2 // CHUNK * CHUNK


def unfinished(cache: Path) -> list[Path]:
    return list(cache.rglob("*.incomplete"))


def wanted(server: HubServer) -> dict[str, bytes]:
    return {name: content for name, content in server.files.items() if name.endswith((".json", ".safetensors"))}


def assert_completes(cache: Path, server: HubServer) -> None:
    server.behave()
    assert contents(fetch(cache)) == wanted(server)
    assert find_cached(REPO, cache) is not None
    assert unfinished(cache) == []


# A download


def test_only_what_a_text_model_needs_is_downloaded(server: HubServer, cache: Path) -> None:
    folder = fetch(cache)
    assert contents(folder) == wanted(server)
    assert set(server.sent) == set(wanted(server))
    assert all(server.sent[name] == len(content) for name, content in wanted(server).items())


def test_nothing_is_downloaded_twice(server: HubServer, cache: Path) -> None:
    folder = fetch(cache)
    server.behave()
    assert fetch(cache) == folder
    assert not server.sent
    server.behave()
    assert locate(REPO, cache_path=cache, auto_download=True, show_progress=False) == folder
    assert server.asked == []


def test_the_layout_is_the_hubs_own(server: HubServer, cache: Path, tmp_path: Path) -> None:
    folder = fetch(cache)
    patterns = ["*.json", "*.safetensors"]
    found = huggingface_hub.snapshot_download(REPO, cache_dir=cache, local_files_only=True, allow_patterns=patterns)
    assert Path(found) == folder
    theirs = tmp_path / "theirs"
    huggingface_hub.snapshot_download(REPO, cache_dir=theirs, allow_patterns=patterns)
    names = [{str(path.relative_to(root)) for path in root.rglob("*")} for root in (cache, theirs)]
    noted = f"models--someone--some-model/chroma-mlx.{server.commit}.json"
    assert names[0] - names[1] == {noted}
    assert names[1] <= names[0]
    links = [{path.name: os.readlink(path) for path in root.rglob("*.safetensors")} for root in (cache, theirs)]
    assert links[0] == links[1]


def test_what_another_program_has_cached_is_not_downloaded_again(server: HubServer, cache: Path) -> None:
    huggingface_hub.hf_hub_download(REPO, WEIGHTS, cache_dir=cache)
    server.behave()
    assert contents(fetch(cache)) == wanted(server)
    assert WEIGHTS not in server.sent


def test_a_proxy_is_asked_for_the_hub(server: HubServer, cache: Path) -> None:
    code = (
        "from pathlib import Path; from chroma_mlx.checkpoint.locate import locate;"
        f"print(locate({REPO!r}, cache_path=Path({str(cache)!r}), auto_download=True, show_progress=False))"
    )
    proxy = dict.fromkeys(("HTTP_PROXY", "http_proxy"), server.endpoint)
    nobody = dict.fromkeys(("NO_PROXY", "no_proxy"), "")
    output, errors = run_python(code, server, HF_ENDPOINT="http://hub.invalid", **proxy, **nobody).communicate(
        timeout=60
    )
    assert contents(Path(output.strip())) == wanted(server), errors


def test_the_token_is_sent(server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    fetch(cache)
    assert {each.headers.get("authorization") for each in server.asked} == {"Bearer hf_of_a_test"}
    assert server.count(f"resolve/{server.commit}/{WEIGHTS}") == 1


def test_a_bar_is_shown_only_when_it_is_asked_for(
    server: HubServer, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(cache / "silent", show=False)
    fetch(cache / "automatic", show=None)
    assert capfd.readouterr().err == ""
    fetch(cache / "shown", show=True)
    shown = capfd.readouterr().err
    assert WEIGHTS in shown
    assert "B/s" in shown


def test_the_clients_own_switch_for_bars_holds_where_nothing_is_said(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    huggingface_hub.utils.disable_progress_bars()
    try:
        fetch(cache / "silent", show=None)
    finally:
        huggingface_hub.utils.enable_progress_bars()
    assert capfd.readouterr().err == ""
    fetch(cache / "shown", show=None)
    assert WEIGHTS in capfd.readouterr().err


def test_a_function_downloads_its_model_at_the_first_text(server: HubServer, cache: Path, checkpoint: Path) -> None:
    function = MLXEmbeddingFunction(REPO, cache_dir=cache, show_progress=False)
    assert server.asked == []
    vectors = function.encode(["a text"])
    assert contents(next(cache.glob("models--*/snapshots/*"))) == wanted(server)
    assert np.array_equal(vectors, MLXEmbeddingFunction(str(checkpoint)).encode(["a text"]))


# Cut in the middle


def test_a_connection_that_is_cut_once_is_taken_up_where_it_stopped(server: HubServer, cache: Path) -> None:
    server.cut_at[WEIGHTS] = half(server)
    waits: list[float] = []

    def mend(seconds: float) -> None:
        waits.append(seconds)
        server.cut_at.clear()

    assert contents(fetch(cache, sleep=mend)) == wanted(server)
    assert len(waits) == 1
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS])


def test_an_interrupted_download_leaves_nothing_that_looks_complete_and_is_resumed(
    server: HubServer, cache: Path
) -> None:
    server.cut_at[WEIGHTS] = half(server)
    with pytest.raises(DownloadError, match=f"is not cached and could not be downloaded.*{BY_HAND}"):
        fetch(cache)
    assert find_cached(REPO, cache) is None
    assert not list(cache.rglob(WEIGHTS))
    server.behave()
    assert contents(fetch(cache)) == wanted(server)
    ranges = [each.headers.get("range") for each in server.requests(WEIGHTS)]
    assert ranges == [f"bytes={half(server)}-"]
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS]) - half(server)
    assert unfinished(cache) == []


def test_a_process_that_is_killed_leaves_nothing_that_looks_complete(server: HubServer, cache: Path) -> None:
    server.halt_at[WEIGHTS] = half(server)
    process = start_process(server, cache)
    assert server.halted.wait(60), "the process never came to the weights"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    server.go_on.set()
    assert process.returncode == -signal.SIGKILL
    assert find_cached(REPO, cache) is None
    assert not list(cache.rglob(WEIGHTS))
    assert_completes(cache, server)


def test_two_processes_that_start_at_once_download_once(server: HubServer, cache: Path) -> None:
    server.halt_at[WEIGHTS] = half(server)
    processes = [start_process(server, cache) for _ in range(2)]
    assert server.halted.wait(60), "no process came to the weights"
    wait_until(lambda: server.count("/api/models") >= 2)
    server.go_on.set()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert contents(Path(output.strip())) == wanted(server)
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS])


def test_a_file_is_locked_as_the_client_locks_it_while_it_is_fetched(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, tried = file_download.http_get, []

    def try_lock(url: str, *args: Any, **options: Any) -> None:
        if url.endswith(WEIGHTS):
            sha256 = hashlib.sha256(server.files[WEIGHTS]).hexdigest()
            lock = cache / ".locks" / "models--someone--some-model" / f"{sha256}.lock"
            with pytest.raises(filelock.Timeout, match=lock.name), filelock.FileLock(lock, timeout=0):
                pass
            tried.append(url)
        original(url, *args, **options)

    # The original's signature is read.
    monkeypatch.setattr(file_download, "http_get", functools.wraps(original)(try_lock))
    assert contents(fetch(cache)) == wanted(server)
    assert len(tried) == 1


# Content that is not the Hub's


def test_content_with_another_hash_is_refused_and_removed(server: HubServer, cache: Path) -> None:
    content = server.files[WEIGHTS]
    server.instead[WEIGHTS] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(CorruptCheckpoint, match=rf"{WEIGHTS} of {REPO} has the SHA-256 .* and was removed"):
        fetch(cache)
    assert find_cached(REPO, cache) is None
    assert not [path for path in cache.rglob("blobs/*") if path.stat().st_size == len(content)]
    assert server.count(WEIGHTS) == 1
    assert_completes(cache, server)


def test_a_blob_that_was_damaged_in_the_cache_so_that_it_does_not_open_is_fetched_again_at_once(
    server: HubServer, cache: Path
) -> None:
    blob = (fetch(cache) / WEIGHTS).resolve()
    blob.write_bytes(bytes(len(server.files[WEIGHTS])))
    assert_completes(cache, server)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_after_a_file_was_cut_in_the_cache_one_download_mends_it(server: HubServer, cache: Path, name: str) -> None:
    (fetch(cache) / name).resolve().write_bytes(server.files[name][:-10])
    with pytest.raises(DownloadError, match="Fetch what is missing: `chroma-mlx models download"):
        verify_files(REPO, cache)
    locate(REPO, cache_path=cache, auto_download=True, show_progress=False)
    assert {*verify_files(REPO, cache).right} == set(wanted(server))


def test_a_small_file_with_another_hash_is_refused_and_removed(server: HubServer, cache: Path) -> None:
    content = server.files["tokenizer.json"]
    server.instead["tokenizer.json"] = content[:-1] + b" "
    with pytest.raises(CorruptCheckpoint, match=rf"tokenizer\.json of {REPO} has the SHA-1 .* and was removed"):
        fetch(cache)
    assert find_cached(REPO, cache) is None
    assert_completes(cache, server)


def test_a_small_file_that_differs_in_the_cache_is_fetched_again(server: HubServer, cache: Path) -> None:
    content = server.files["tokenizer.json"]
    (fetch(cache) / "tokenizer.json").resolve().write_bytes(content[:-1] + b" ")
    assert_completes(cache, server)
    assert not server.sent[WEIGHTS]


def test_what_is_there_in_its_size_is_neither_read_nor_fetched_again(server: HubServer, cache: Path) -> None:
    blob = (fetch(cache) / WEIGHTS).resolve()
    content = bytearray(server.files[WEIGHTS])
    content[-1] ^= 1  # it opens, and only a hash of all of it would tell
    blob.write_bytes(content)
    server.behave()
    assert (fetch(cache) / WEIGHTS).read_bytes() == content
    assert not server.sent
    with pytest.raises(CorruptCheckpoint, match=f"{WEIGHTS} of {REPO} is not what the Hub has"):
        verify_files(REPO, cache)


def test_a_blob_of_another_size_is_fetched_again(server: HubServer, cache: Path) -> None:
    blob = (fetch(cache) / WEIGHTS).resolve()
    blob.write_bytes(b"cut")
    assert_completes(cache, server)


def test_a_beginning_that_was_damaged_is_begun_anew_once(server: HubServer, cache: Path) -> None:
    server.cut_at[WEIGHTS] = half(server)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(cache)
    (left,) = unfinished(cache)
    left.write_bytes(bytes(half(server)))
    assert_completes(cache, server)
    ranges = [each.headers.get("range") for each in server.requests(WEIGHTS)]
    assert ranges == [f"bytes={half(server)}-", None]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "/tmp/a-file-of-the-user"),
        ("sha256", "../../../a-file"),
        ("sha256", "A" * 64),
        ("blobId", "../refs/main"),
        ("rfilename", "../../outside.json"),
        ("rfilename", "/outside.json"),
        ("sha", "../.."),
    ],
)
def test_what_the_server_states_is_never_taken_for_another_files_path(
    server: HubServer, cache: Path, tmp_path: Path, field: str, value: str
) -> None:
    mine = tmp_path / "a-file-of-the-user"
    mine.write_text("mine", encoding="utf-8")
    value = value.replace("/tmp/a-file-of-the-user", str(mine))
    server.stated[field] = value
    with pytest.raises(DownloadError, match="where the hash or the name of a file should be"):
        fetch(cache)
    assert mine.read_text(encoding="utf-8") == "mine"
    assert not server.sent


def test_the_branch_is_asked_for_once_and_noted(server: HubServer, cache: Path) -> None:
    fetch(cache)
    assert [each.path for each in server.requests("/api/models") if server.commit not in each.path] == [
        f"/api/models/{REPO}"
    ]
    assert (cache / "models--someone--some-model/refs/main").read_text(encoding="utf-8") == server.commit


def test_several_files_are_fetched_at_once_and_each_is_resumed(server: HubServer, cache: Path) -> None:
    names = [f"model-0000{place}-of-00003.safetensors" for place in (1, 2, 3)]
    shard(server, names)
    server.halt_at[names[0]] = CHUNK
    server.cut_at[names[0]] = CHUNK
    failed: list[str] = []

    def fetch_all() -> None:
        try:
            fetch(cache)
        except DownloadError as error:
            failed.append(str(error))

    thread = threading.Thread(target=fetch_all, daemon=True)
    thread.start()
    assert server.halted.wait(60)
    # Both others come whole while the first halts.
    others = {hashlib.sha256(server.files[name]).hexdigest() for name in names[1:]}
    wait_until(lambda: others <= {path.name for path in cache.glob("*/blobs/*")})
    server.go_on.set()
    thread.join(60)
    assert len(failed) == 1
    assert "could not be downloaded" in failed[0]
    assert find_cached(REPO, cache) is None
    assert_completes(cache, server)
    assert server.sent[names[0]] == len(server.files[names[0]]) - CHUNK
    assert [server.sent[name] for name in names[1:]] == [0, 0], "a file that was complete was fetched again"
    (model,) = list_cached(cache, named=[REPO])
    assert model.ours, "what two runs of this program fetched is not taken for ours"


def test_a_file_is_no_longer_written_when_another_one_has_failed(tmp_path: Path) -> None:
    stop = threading.Event()
    with AppendingFile(tmp_path / "file", stop) as stream:
        stream.write(b"before")
        stop.set()
        with pytest.raises(DownloadError, match="was stopped, since another file of the model failed"):
            stream.write(b"after")
    assert (tmp_path / "file").read_bytes() == b"before"


def test_a_client_whose_inner_functions_have_changed_still_downloads(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = file_download.http_get

    def changed(*args: Any, **options: Any) -> None:
        original(*args, **options)

    monkeypatch.setattr(file_download, "http_get", changed)
    assert contents(fetch(cache)) == wanted(server)
    content = server.files[WEIGHTS]
    server.instead[WEIGHTS] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(CorruptCheckpoint, match=f"{WEIGHTS} of {REPO} has the SHA-256"):
        fetch(cache / "other")
    assert find_cached(REPO, cache / "other") is None


def test_a_download_is_the_first_that_a_process_asks_of_the_client(server: HubServer, cache: Path) -> None:
    """The client's modules are imported when they are first asked for."""
    code = (
        "from pathlib import Path; from chroma_mlx.checkpoint.download import download;"
        f"download({REPO!r}, revision=None, cache_path=Path({str(cache)!r}), show_progress=False)"
    )
    run = run_python(code, server)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert find_cached(REPO, cache) is not None


def test_a_file_that_ends_early_is_refused(server: HubServer, cache: Path) -> None:
    server.instead[WEIGHTS] = server.files[WEIGHTS][: half(server)]
    with pytest.raises(DownloadError, match=f"could not be downloaded.*{BY_HAND}"):
        fetch(cache)
    assert find_cached(REPO, cache) is None
    assert_completes(cache, server)


def test_a_repository_whose_weights_are_truncated_is_refused(server: HubServer, cache: Path) -> None:
    whole = server.files[WEIGHTS]
    server.files[WEIGHTS] = whole[: half(server)]
    with pytest.raises(CorruptCheckpoint, match=f"{REPO} was downloaded whole, but is no checkpoint that works"):
        fetch(cache)
    assert find_cached(REPO, cache) is None
    server.files[WEIGHTS] = whole
    assert_completes(cache, server)


def test_an_unfinished_file_that_is_longer_than_the_whole_is_begun_anew(server: HubServer, cache: Path) -> None:
    server.cut_at[WEIGHTS] = half(server)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(cache)
    (left,) = unfinished(cache)
    left.write_bytes(bytes(2 * len(server.files[WEIGHTS])))
    assert_completes(cache, server)
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS])


def test_a_repository_without_safetensors_is_refused_before_a_download(server: HubServer, cache: Path) -> None:
    del server.files[WEIGHTS]
    with pytest.raises(DownloadError, match=rf"{REPO} has no \*\.safetensors with a config\.json"):
        fetch(cache)
    assert not server.sent


# Answers that are no files


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, DownloadError, "401.*set HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, DownloadError, "is gated: accept its licence.*hf auth login"),
        (403, {"X-Error-Message": "no"}, DownloadError, "403.*set HF_TOKEN"),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotFound, "has no repository 'someone/some-model'"),
        (404, {"X-Error-Code": "RevisionNotFound"}, ModelNotFound, "has not the revision"),
        (429, {"Retry-After": str(LONGEST_WAIT_S + 1)}, DownloadError, "429"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    server: HubServer, cache: Path, status: int, headers: dict[str, str], error: type[Exception], words: str
) -> None:
    server.refuse("/api/models", status, headers)
    waits: list[float] = []
    with pytest.raises(error, match=words):
        fetch(cache, sleep=waits.append)
    assert waits == []
    assert server.count("/api/models") == 1


@pytest.mark.parametrize("part", [WEIGHTS, "config.json"])
def test_a_file_that_is_gated_is_said_to_be_and_not_tried_again(server: HubServer, cache: Path, part: str) -> None:
    server.refuse(f"/resolve/{server.commit}/{part}", 403, {"X-Error-Code": "GatedRepo"})
    waits: list[float] = []
    with pytest.raises(DownloadError, match="is gated: accept its licence"):
        fetch(cache, sleep=waits.append)
    assert waits == []
    assert find_cached(REPO, cache) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("nan", None),
        ("inf", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_is_left(header: str | None, seconds: float | None) -> None:
    assert read_retry_after(header, now=1_000.0) == seconds


@pytest.mark.parametrize("header", ["nan", "-5", "soon"])
def test_a_server_that_asks_for_no_time_is_given_the_usual(server: HubServer, cache: Path, header: str) -> None:
    server.refuse("/api/models", 429, {"Retry-After": header}, times=1)
    waits: list[float] = []
    assert contents(fetch(cache, sleep=waits.append)) == wanted(server)
    assert FIRST_WAIT_S <= waits[0] <= 1.25 * FIRST_WAIT_S


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_connection_that_breaks_before_anything_comes_is_tried_so_often_and_no_more(
    server: HubServer, cache: Path, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [logging.StreamHandler(printed)])
    server.cut_at[name] = 0
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(cache)
    assert server.count(name) == ATTEMPTS
    assert printed.getvalue() == "", "lines of the client's own"
    file_download.logger.warning("one after the download")
    assert printed.getvalue() == "one after the download\n"


def test_a_connection_that_breaks_again_and_again_keeps_what_came(server: HubServer, cache: Path) -> None:
    cuts = iter(range(CHUNK, len(server.files[WEIGHTS]), CHUNK))

    def cut_later(_: float) -> None:
        server.cut_at[WEIGHTS] = next(cuts)

    cut_later(0.0)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(cache, sleep=cut_later)
    assert server.sent[WEIGHTS] == ATTEMPTS * CHUNK
    assert server.count(WEIGHTS) <= 6 * ATTEMPTS
    assert_completes(cache, server)


def test_a_server_that_has_too_many_is_given_the_time_it_asks_for(server: HubServer, cache: Path) -> None:
    server.refuse("/api/models", 429, {"Retry-After": "7"}, times=2)
    waits: list[float] = []
    assert contents(fetch(cache, sleep=waits.append)) == wanted(server)
    assert waits == [7.0, 7.0]


@pytest.mark.parametrize("part", ["/api/models", WEIGHTS, "config.json"])
def test_a_server_that_fails_twice_is_asked_again(server: HubServer, cache: Path, part: str) -> None:
    server.refuse(part, 500, times=2)
    fetched: list[Path] = []
    folder = download(
        REPO, revision=None, cache_path=cache, show_progress=False, on_fetch=fetched.append, sleep=lambda _: None
    )
    assert contents(folder) == wanted(server)
    assert fetched == [folder], "what an earlier attempt brought does not count"


@pytest.mark.parametrize("part", ["/api/models", WEIGHTS])
def test_a_server_that_goes_on_failing_is_given_up(server: HubServer, cache: Path, part: str) -> None:
    server.refuse(part, 500)
    waits: list[float] = []
    with pytest.raises(DownloadError, match=f"500 (Server Error: )?Internal Server Error.*{BY_HAND}") as raised:
        fetch(cache, sleep=waits.append)
    assert type(raised.value) is DownloadError, "an error that the documentation does not have"
    assert server.count(part) == ATTEMPTS
    assert len(waits) == ATTEMPTS - 1
    for place, wait in enumerate(waits):
        assert FIRST_WAIT_S * 2.0**place <= wait <= 1.25 * FIRST_WAIT_S * 2.0**place
    assert find_cached(REPO, cache) is None


# No connection, no room, no leave


@pytest.mark.usefixtures("server")
def test_without_a_route_the_manual_way_is_named_after_some_attempts(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    use_endpoint(f"http://127.0.0.1:{port}", monkeypatch)
    waits: list[float] = []
    with pytest.raises(DownloadError, match=f"Connect(ion)?Error.*{BY_HAND}.*'builtin' needs no download"):
        fetch(cache, sleep=waits.append)
    assert len(waits) == ATTEMPTS - 1


def test_a_disk_without_room_is_noticed_before_a_download(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=1000))
        with pytest.raises(DownloadError, match=r"needs 0\.00 GB more in .*Make room .*or set cache_dir"):
            fetch(cache)
    assert not server.sent
    fetch(cache)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=1000))
        assert contents(fetch(cache)) == wanted(server), "what is there needs no room"


def test_files_of_another_version_do_not_count_as_room(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(cache)
    server.files[WEIGHTS] = server.files[WEIGHTS][:-4] + b"\0\0\0\0"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=1000))
    with pytest.raises(DownloadError, match="GB more in"):
        fetch(cache)


def test_a_model_that_may_not_be_downloaded_asks_no_server(server: HubServer, cache: Path) -> None:
    function = MLXEmbeddingFunction(REPO, cache_dir=cache, auto_download=False)
    with pytest.raises(DownloadError, match=f"auto_download is off.*{BY_HAND}"):
        function(["a text"])
    assert server.asked == []


def test_an_offline_client_names_the_manual_way_at_once(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    function = MLXEmbeddingFunction(REPO, cache_dir=cache)
    with pytest.raises(DownloadError, match=f"offline mode is enabled.*{BY_HAND}"):
        function(["a text"])
    waits: list[float] = []
    with pytest.raises(DownloadError, match="offline mode is enabled"):
        fetch(cache, sleep=waits.append)
    assert waits == []
    assert server.asked == []


def test_an_offline_client_finds_what_was_downloaded(
    server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch(cache)
    go_offline(monkeypatch)
    assert locate(REPO, cache_path=cache, auto_download=True, show_progress=False) == folder
    server.behave()
    assert MLXEmbeddingFunction(REPO, cache_dir=cache).encode(["a text"]).shape == (1, 32)
    assert server.asked == []


def start_process(server: HubServer, cache: Path) -> subprocess.Popen[str]:
    """Another process that downloads into `cache`."""
    return run_python(
        "from pathlib import Path; from chroma_mlx.checkpoint.locate import locate;"
        f"print(locate({REPO!r}, cache_path=Path({str(cache)!r}), auto_download=True, show_progress=False))",
        server,
    )


def run_python(code: str, server: HubServer, **others: str) -> subprocess.Popen[str]:
    settings = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    environment: dict[str, Any] = {**os.environ, **settings, **others}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def shard(server: HubServer, names: list[str]) -> None:
    """Splits the weights of the server's checkpoint into files of these names, with an index."""
    tensors = load(server.files.pop(WEIGHTS))
    weight_map = {key: names[place % len(names)] for place, key in enumerate(sorted(tensors))}
    for name in names:
        server.files[name] = save({key: tensors[key] for key in tensors if weight_map[key] == name})
    server.files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": weight_map}).encode()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for what another process does."""
    ends, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        pause.wait(0.01)
