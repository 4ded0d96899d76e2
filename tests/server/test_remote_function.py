"""RemoteEmbeddingFunction against a real server, and against one that fails in every way."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings
from served import Served, serve

from chroma_mlx import MLXEmbeddingFunction, RemoteEmbeddingFunction
from chroma_mlx.errors import ConfigError, DeadlineExceeded, InputError, RemoteError
from chroma_mlx.functions import remote as module

# Of the number of the request and its texts: status, headers and the body, whole or in pieces; status 0 hangs up.
Answer = Callable[[int, list[str]], tuple[int, dict[str, str], bytes | Iterator[bytes]]]


def test_a_collection_made_and_opened_again(served: Served, tmp_path: Path) -> None:
    remote = RemoteEmbeddingFunction("builtin", url=served.url)
    client = chromadb.PersistentClient(tmp_path / "data", settings=Settings(anonymized_telemetry=False))
    made = client.create_collection("notes", embedding_function=remote)  # type: ignore[arg-type]
    texts = [f"passage {number} of a book about stars" for number in range(600)]
    made.add(ids=[str(number) for number in range(600)], documents=texts)
    opened = client.get_collection("notes")
    assert opened.query(query_texts=["passage 7 of a book about stars"], n_results=1)["ids"] == [["7"]]
    stored = opened.get(ids=["3"], include=["embeddings"])["embeddings"]
    own = MLXEmbeddingFunction("builtin")
    np.testing.assert_allclose(stored, own.encode(texts[3:4]), atol=2e-6)
    np.testing.assert_allclose(remote.embed_query(["a star"]), own.embed_query(["a star"]), atol=2e-6)
    assert json.loads(json.dumps(remote.get_config())) == {
        "model_name": "builtin",
        "url": served.url,
        "dimension": None,
        "api_key_env_var": None,
        "space": None,
    }
    client.close()


def test_what_the_server_refuses_is_told_as_ones_own(served: Served) -> None:
    with pytest.raises(ConfigError, match="dimension is 999"):
        RemoteEmbeddingFunction("builtin", url=served.url, dimension=999)(["a"])
    with pytest.raises(RemoteError, match="does not serve the model 'other'"):
        RemoteEmbeddingFunction("other", url=served.url)(["a"])
    with pytest.raises(InputError, match="Text 1 is a int"):
        RemoteEmbeddingFunction("builtin", url=served.url)(["a", 1])  # type: ignore[list-item]


def test_a_key_by_the_name_of_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("a-secret\n")
    with serve(tmp_path, "--api-key-file", str(tmp_path / "key")) as served:
        function = RemoteEmbeddingFunction("builtin", url=served.url, api_key_env_var="THE_KEY")
        with pytest.raises(ConfigError, match=r"THE_KEY.*is not set"):
            function(["a"])
        monkeypatch.setenv("THE_KEY", "wrong")
        with pytest.raises(RemoteError, match=r"401.*key is missing or wrong"):
            function(["a"])
        monkeypatch.setenv("THE_KEY", "a-secret\n")
        assert len(function(["a"])) == 1
        assert "a-secret" not in json.dumps(function.get_config()) + repr(function)


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_name": ""},
        {"url": "127.0.0.1:8200"},
        {"url": "ftp://host"},
        {"url": "http://host?query"},
        {"url": "http://h:abc"},
        {"url": "http://h:99999"},
        {"url": "http://:80"},
        {"space": ""},
        {"space": "not hexadecimal"},
        {"dimension": 0},
        {"dimension": True},
        {"api_key_env_var": "A KEY"},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
    ],
)
def test_arguments_that_are_not_allowed(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        RemoteEmbeddingFunction(**{"model_name": "builtin", **arguments})


def test_another_place_of_the_same_model_may_be_saved_but_no_other_model() -> None:
    function = RemoteEmbeddingFunction("builtin")
    old = function.get_config()
    function.validate_config_update(old, old | {"url": "https://elsewhere/path", "api_key_env_var": "KEY"})
    for change in ({"model_name": "other"}, {"dimension": 64}):
        with pytest.raises(ConfigError, match="do not match"):
            function.validate_config_update(old, old | change)
    pinned = old | {"space": "ab12"}
    function.validate_config_update(old, pinned)
    for space in (None, "cd34"):
        with pytest.raises(ConfigError, match="space from 'ab12'"):
            function.validate_config_update(pinned, old | {"space": space})
    del old["space"]  # as a version without it saved
    assert function.build_from_config(old).space is None


@pytest.fixture
def scripted() -> Iterator[Callable[[Answer], str]]:
    """A server that answers as a function of the number of the request says."""
    servers = []

    def start(answer: Answer) -> str:
        count = iter(range(1000))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, headers, body = answer(next(count), asked["texts"])
                if status == 0:
                    return
                pieces = iter([body]) if isinstance(body, bytes) else body
                if isinstance(body, bytes):
                    headers = {"content-length": str(len(body)), **headers}
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for piece in pieces:
                        self.wfile.write(piece)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def right(count: int = 1, space: str = "ab12") -> bytes:
    return json.dumps({"embeddings": [[0.6, 0.8]] * count, "dimension": 2, "space": space}).encode()


def problem(code: str, message: str = "", field: str | None = None) -> bytes:
    return json.dumps({"code": code, "message": message, "field": field}).encode()


def test_a_busy_server_is_asked_again_when_it_says(scripted: Callable[[Answer], str]) -> None:
    busy = problem("overloaded")
    url = scripted(
        lambda n, texts: (200, {}, right()) if n == 2 else (503, {"retry-after": "1", "retry-after-ms": "5"}, busy)
    )
    [vector] = RemoteEmbeddingFunction("builtin", url=url)(["a"])
    assert vector.tolist() == pytest.approx([0.6, 0.8])


def test_a_server_without_its_model_is_not_asked_again(scripted: Callable[[Answer], str]) -> None:
    body = problem("model_unavailable", "no such model")
    url = scripted(lambda n, texts: (503, {"retry-after": "1"}, body))
    with pytest.raises(RemoteError, match="503: no such model"):
        RemoteEmbeddingFunction("builtin", url=url)(["a"])


def test_a_server_that_stays_busy_is_left_when_the_time_is_up(scripted: Callable[[Answer], str]) -> None:
    url = scripted(lambda n, texts: (503, {"retry-after": "60"}, b"{}"))
    with pytest.raises(DeadlineExceeded):
        RemoteEmbeddingFunction("builtin", url=url, timeout_s=0.2)(["a"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        right(2),
        b'{"embeddings": [[0.6]], "dimension": 2, "space": "ab"}',
        b'{"embeddings": [[NaN, 1.0]], "dimension": 2, "space": "ab"}',
        b'{"embeddings": [[null, 1.0]], "dimension": 2, "space": "ab"}',
        b'{"embeddings": [[0.6, 0.8]], "dimension": 2}',
        b'{"embeddings": [[0.6, 0.8]], "dimension": 2, "space": 12}',
        right(space=""),
        b'{"embeddings": [[1' + b"0" * 400 + b', 1.0]], "dimension": 2, "space": "ab"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_stores_nothing(scripted: Callable[[Answer], str], body: bytes) -> None:
    url = scripted(lambda n, texts: (200, {}, body))
    with pytest.raises(RemoteError, match="no answer of chroma-mlx"):
        RemoteEmbeddingFunction("builtin", url=url)(["a"])


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(RemoteError, match=r"cannot be reached.*chroma-mlx serve"):
        RemoteEmbeddingFunction("builtin", url="http://127.0.0.1:9")(["a"])


@pytest.mark.parametrize("key", ["se\ncret", "sécret", "se\x7fcret"])
def test_a_key_that_is_none_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", key)
    with pytest.raises(ConfigError, match=r"THE_KEY.*printable ASCII") as raised:
        RemoteEmbeddingFunction("builtin", api_key_env_var="THE_KEY")(["a"])
    assert "cret" not in str(raised.value)


def test_a_key_with_white_space_around_it_is_sent_without(
    scripted: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", " secret\n")
    url = scripted(lambda n, texts: (200, {}, right()))
    assert len(RemoteEmbeddingFunction("builtin", url=url, api_key_env_var="THE_KEY")(["a"])) == 1


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-realkey",
        "sk_live_51a7d9c2e4b8f06d3a1c5e7f",
        "ab12" * 16,  # hexadecimal, as `openssl rand -hex 32` gives it
        "THE_KEY\n",
        "THE KEY=realkey",
        "1realkey",
        "réalkey",
        "",
        b"realkey",
        ["realkey"],
        True,
    ],
)
def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_shown(key: Any) -> None:
    config = RemoteEmbeddingFunction("builtin").get_config() | {"api_key_env_var": key}
    for refuse in (RemoteEmbeddingFunction.build_from_config, RemoteEmbeddingFunction.validate_config):
        with pytest.raises(ConfigError, match="api_key_env_var has to be the name of an environment") as raised:
            refuse(config)
        said = "".join(traceback.format_exception(raised.value)) + repr(raised.value.problems)
        assert not key or str(key).strip() not in said
        assert "realkey" not in said


@pytest.mark.parametrize("name", ["KEY", "key", "_k", "CHROMA_MLX_SERVER_API_KEY_2", "THEKEYOFTHEEMBEDDINGSERVER"])
def test_the_name_of_a_variable_is_taken_whatever_its_letters(name: str) -> None:
    assert RemoteEmbeddingFunction("builtin", api_key_env_var=name).get_config()["api_key_env_var"] == name


def test_a_key_in_the_place_of_its_variables_name_is_not_saved(tmp_path: Path) -> None:
    client = chromadb.PersistentClient(tmp_path / "data", settings=Settings(anonymized_telemetry=False))
    function = RemoteEmbeddingFunction("builtin")
    notes = client.create_collection("notes", embedding_function=function)  # type: ignore[arg-type]
    mistaken = copy.copy(function)
    mistaken.api_key_env_var = "sk-realkey"
    with pytest.raises(ConfigError, match="api_key_env_var has to be"):
        notes.modify(configuration={"embedding_function": mistaken})  # type: ignore[typeddict-item]
    client.close()
    assert not any(b"sk-realkey" in file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    for url in ("http://user:secret@host", "https://secret@host/path"):
        with pytest.raises(ConfigError, match="url holds a user") as raised:
            RemoteEmbeddingFunction("builtin", url=url)
        assert "secret" not in str(raised.value)
    RemoteEmbeddingFunction("builtin", url="http://host/a@b")


def test_other_vectors_than_before_are_refused(scripted: Callable[[Answer], str]) -> None:
    spaces = ["ab12", "ab12", "cd34", "ab12"]
    url = scripted(lambda n, texts: (200, {}, right(len(texts), spaces[n])))
    function = RemoteEmbeddingFunction("builtin", url=url)
    function(["a"])
    with pytest.raises(RemoteError, match=r"other vectors than before.*cd34.*ab12"):
        function.embed_query(["a"] * (module.TEXTS + 1))  # the second part of one call
    assert len(function(["a"])) == 1


def test_a_pinned_space(scripted: Callable[[Answer], str]) -> None:
    url = scripted(lambda n, texts: (200, {}, right()))
    function = RemoteEmbeddingFunction("builtin", url=url, space="ab12")
    assert len(function(["a"])) == 1
    assert function.build_from_config(function.get_config()) == function
    with pytest.raises(RemoteError, match="other vectors"):
        RemoteEmbeddingFunction("builtin", url=url, space="cd34")(["a"])


def test_a_collection_that_is_opened_again_holds_to_the_first_space(
    scripted: Callable[[Answer], str], tmp_path: Path
) -> None:
    spaces = ["ab12"]
    url = scripted(lambda n, texts: (200, {}, right(space=spaces[-1])))
    client = chromadb.PersistentClient(tmp_path / "data", settings=Settings(anonymized_telemetry=False))
    remote: Any = RemoteEmbeddingFunction("builtin", url=url)
    client.create_collection("notes", embedding_function=remote)
    opened = client.get_collection("notes")
    opened.add(ids=["a"], documents=["a"])
    spaces.append("cd34")
    with pytest.raises(RemoteError, match="now makes other vectors than before: their space is cd34, and was ab12"):
        opened.query(query_texts=["a"])
    with pytest.raises(RemoteError, match="now makes other vectors"):
        client.get_collection("notes").add(ids=["b"], documents=["b"])
    assert opened.count() == 1


def test_what_is_too_large_is_sent_in_halves(scripted: Callable[[Answer], str]) -> None:
    def answer(n: int, texts: list[str]) -> tuple[int, dict[str, str], bytes]:
        if len(texts) > 2 or "large" in texts:
            return 413, {}, problem("request_too_large", "too much", "texts")
        if "bad" in texts:
            return 422, {}, problem("invalid_text", "is bad", f"texts[{texts.index('bad')}]")
        vectors = [[float(text), 1.0] for text in texts]
        return 200, {}, json.dumps({"embeddings": vectors, "dimension": 2, "space": "ab"}).encode()

    function = RemoteEmbeddingFunction("builtin", url=scripted(answer))
    texts = [str(number) for number in range(module.TEXTS + 7)]
    assert function.encode(texts)[:, 0].tolist() == list(range(module.TEXTS + 7))
    for place in (5, module.TEXTS + 3):
        with pytest.raises(InputError, match=f"Text {place} alone is more than the server takes: too much"):
            function([*texts[:place], "large", *texts[place:]])
        with pytest.raises(InputError, match=f"Text {place}: is bad"):
            function([*texts[:place], "bad", *texts[place:]])


def test_a_lost_connection_is_tried_once_more(scripted: Callable[[Answer], str]) -> None:
    url = scripted(lambda n, texts: (200, {}, right()) if n == 1 else (0, {}, b""))
    function = RemoteEmbeddingFunction("builtin", url=url)
    assert len(function(["a"])) == 1
    with pytest.raises(RemoteError, match=r"cannot be reached.*disconnected"):
        function(["a"])
    assert module.LIMITS.keepalive_expiry == 2.0


def test_an_answer_that_cannot_be_decoded(scripted: Callable[[Answer], str]) -> None:
    url = scripted(lambda n, texts: (200, {"content-encoding": "gzip"}, b"none"))
    with pytest.raises(RemoteError):
        RemoteEmbeddingFunction("builtin", url=url)(["a"])


def test_an_answer_in_drops_does_not_outlive_the_time(scripted: Callable[[Answer], str]) -> None:
    def drops() -> Iterator[bytes]:
        for _ in range(200):
            time.sleep(0.05)
            yield b" "

    function = RemoteEmbeddingFunction("builtin", url=scripted(lambda n, texts: (200, {}, drops())), timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        function(["a"])
    assert time.monotonic() - began < 5


def test_the_waits_begin_short_and_double(scripted: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    url = scripted(lambda n, texts: (200, {}, right()) if n == 3 else (503, {"retry-after": "nan"}, b"{}"))
    monkeypatch.setattr(module._Until, "pause", lambda self, seconds: waits.append(seconds))
    RemoteEmbeddingFunction("builtin", url=url)(["a"])
    assert waits == [0.1, 0.2, 0.4]


async def test_an_event_loop_goes_on_meanwhile(scripted: Callable[[Answer], str]) -> None:
    go = threading.Event()
    url = scripted(lambda n, texts: (200, {}, right()) if go.wait(30) else (0, {}, b""))
    waiting = asyncio.create_task(RemoteEmbeddingFunction("builtin", url=url).aembed(["a"], "query"))
    await asyncio.sleep(0.05)
    go.set()
    assert (await waiting).shape == (1, 2)


async def test_a_cancelled_call_does_not_hold_up_the_program(scripted: Callable[[Answer], str]) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def busy(number: int, texts: list[str]) -> tuple[int, dict[str, str], bytes]:
        loop.call_soon_threadsafe(asked.set)
        return 503, {"retry-after": "50"}, b"{}"

    function = RemoteEmbeddingFunction("builtin", url=scripted(busy))
    call = asyncio.ensure_future(function.aembed(["a"]))
    await asked.wait()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    await asyncio.wait_for(loop.shutdown_default_executor(), 30)  # which waits for its threads


def test_a_proxy_of_the_environment_is_given_nothing_that_stays_on_this_machine(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert RemoteEmbeddingFunction("builtin", url=served.url).encode(["a"]).shape == (1, 256)


def test_the_function_can_be_sent_to_another_process(served: Served) -> None:
    function = RemoteEmbeddingFunction("builtin", url=served.url)
    first = function.encode(["a"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(function)).encode(["a"]), first)
    np.testing.assert_array_equal(copy.deepcopy(function).encode(["a"]), first)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", None, True, 1e6])
def test_a_time_that_cannot_be_waited_for_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match=r"timeout_s is .*, which is not allowed"):
        RemoteEmbeddingFunction("builtin", timeout_s=seconds)
