"""POST /embed and what stands around it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served import Served, client_of, options

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.engine.stats import take_stats
from chroma_mlx.errors import DeadlineExceeded, EngineError, QueueFull, SchedulerClosed
from chroma_mlx.server import app, background, gate
from chroma_mlx.server.service import EmbeddingService

FULL = QueueFull(pending=9, limit=9, retry_after_s=2.5)
JSON = {"content-type": "application/json"}
TEXTS = ["the moon orbits the earth", "vega is a star"]


async def test_a_vector_for_each_text_is_that_of_the_function(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/embed", json={"texts": TEXTS})).json()
    want = MLXEmbeddingFunction("builtin").encode(TEXTS)
    np.testing.assert_allclose(np.array(answer["embeddings"], dtype=np.float32), want, atol=2e-6)
    assert (answer["dimension"], answer["model"]) == (256, "builtin")
    assert answer["usage"]["tokens"] > 5
    assert answer["usage"]["milliseconds"] > 0


async def test_every_setting_reaches_the_engine() -> None:
    config = EmbeddingConfig(model_name="builtin", query_instruction="question: ")
    client = client_of(options(configs=(config,)))

    async def ask(**others: Any) -> np.ndarray[Any, Any]:
        answer = await client.post("/embed", json={"texts": ["a star"], **others})
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["embeddings"][0], dtype=np.float32)

    plain = await ask()
    cut = await ask(dimension=64)
    assert cut.shape == (64,)
    np.testing.assert_allclose(cut, plain[:64] / np.linalg.norm(plain[:64]), atol=2e-6)
    assert np.abs(await ask(kind="query") - plain).max() > 0.01
    assert np.abs(await ask(pooling="last") - plain).max() > 0.01
    long = await ask(normalize=False)
    np.testing.assert_allclose(long / np.linalg.norm(long), plain, atol=2e-6)
    np.testing.assert_array_equal(await ask(model="builtin", normalize=True), plain)
    np.testing.assert_array_equal(await ask(model="builtin:query"), await ask(kind="query"))
    await client.aclose()


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "invalid_request", "texts"),
        ({"texts": []}, 422, "invalid_request", "texts"),
        ({"texts": "one"}, 422, "invalid_request", "texts"),
        ({"texts": ["a", 1]}, 422, "invalid_request", "texts[1]"),
        ({"texts": ["a", None]}, 422, "invalid_request", "texts[1]"),
        ({"texts": ["a"], "kind": "passage"}, 422, "invalid_request", "kind"),
        ({"texts": ["a"], "dimension": 0}, 422, "invalid_request", "dimension"),
        ({"texts": ["a"], "dimension": 257}, 422, "invalid_setting", "dimension"),
        ({"texts": ["a"], "dimension": 64.5}, 422, "invalid_request", "dimension"),
        ({"texts": ["a"], "pooling": "max"}, 422, "invalid_request", "pooling"),
        ({"texts": ["a"], "dimensions": 64}, 422, "invalid_request", "dimensions"),
        ({"texts": ["a"], "model": "other"}, 404, "model_not_found", "model"),
        ({"texts": ["a"], "string": 1}, 422, "invalid_request", "string"),
        ({"texts": ["a"], "integer": 1}, 422, "invalid_request", "integer"),
        ({"texts": ["a"], "dimension": 257, "pooling": "last"}, 422, "invalid_setting", None),
        ([], 422, "invalid_request", None),
    ],
)
async def test_what_is_not_valid_is_named(
    client: httpx.AsyncClient, body: Any, status: int, code: str, field: str | None
) -> None:
    answer = await client.post("/embed", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (status, code, field)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"texts": ["\\ud800"]}', b"nothing"])
async def test_what_is_no_json_or_no_text_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/embed", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert answer.json()["message"]
    assert answer.json()["field"] in (None, "texts[0]")


async def test_a_body_of_nothing_but_faults_is_refused_at_once(client: httpx.AsyncClient) -> None:
    faults = [[0] * 1_000_000, {f"key {number}": 0 for number in range(300_000)}]
    for body in ({"texts": faults[0]}, faults[1]):
        content = json.dumps(body)
        started = time.perf_counter()
        answer = await client.post("/embed", content=content, headers=JSON)
        assert time.perf_counter() - started < 2
        assert answer.status_code == 422


async def test_a_body_has_one_deadline_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.3)

    async def drops() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.1)

    async with client_of(options()) as client:
        answer = await asyncio.wait_for(client.post("/embed", content=drops(), headers=JSON), 5)
    assert (answer.status_code, answer.json()["code"]) == (408, "body_timeout")


async def test_what_the_server_was_configured_with_is_not_the_clients_fault(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no cache" * 1000)
    wrong = EmbeddingConfig(model_name="builtin", embedding_cache=tmp_path / "cache")
    async with client_of(options(configs=(wrong,))) as client:
        for settings in ({}, {"dimension": 64}):
            answer = await client.post("/embed", json={"texts": ["a"], **settings})
            assert (answer.status_code, answer.json()["code"]) == (500, "misconfigured")
            assert str(tmp_path) not in answer.text


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/models", "/metrics", "/v1/models", "/v1/models/other", "/embed"]
)
def test_head_is_get_without_a_body(path: str, served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    head, _, body = said.partition("\r\n\r\n")
    assert body == "", "the next answer on this connection would be taken for it"
    got = httpx.get(f"{served.url}{path}")
    assert head.startswith(f"HTTP/1.1 {got.status_code} ")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert headers["content-type"] == got.headers["content-type"]
    assert headers.get("allow", "").upper() == got.headers.get("allow", "")
    assert int(headers["content-length"]) > 0


async def test_a_space_is_that_of_the_model_and_the_settings(client: httpx.AsyncClient) -> None:
    async def ask(asked: httpx.AsyncClient = client, **others: Any) -> str:
        return str((await asked.post("/embed", json={"texts": ["a"], **others})).json()["space"])

    space = await ask()
    assert re.fullmatch("[0-9a-f]{32}", space)
    assert [space] * 4 == [
        await ask(kind="query"),
        await ask(dimension=256),
        await ask(model="builtin:query"),
        (await client.get("/models")).json()[0]["space"],
    ]
    others = {await ask(dimension=64), await ask(normalize=False), await ask(pooling="last")}
    for config in (EmbeddingConfig(query_instruction="question: "), EmbeddingConfig(on_long_text="error")):
        async with client_of(options(configs=(replace(config, model_name="builtin"),))) as configured:
            others.add(await ask(configured))
    assert len({space, *others}) == 6


async def test_a_large_answer_is_the_same_in_blocks(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {number}" for number in range(7)]
    routes: list[tuple[str, dict[str, Any]]] = [
        ("/embed", {"texts": texts}),
        ("/v1/embeddings", {"model": "builtin", "input": texts}),
        ("/v1/embeddings", {"model": "builtin", "input": texts, "encoding_format": "base64"}),
    ]

    async def ask() -> list[str]:
        answers = [(await client.post(path, json=body)).json() for path, body in routes]
        return [json.dumps(answer.get("embeddings") or answer["data"]) for answer in answers]

    whole = await ask()
    monkeypatch.setattr(app, "BLOCK", 600)
    assert await ask() == whole


async def test_a_request_ends_at_its_deadline_while_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    go, before = threading.Event(), take_stats().errors.get("DeadlineExceeded", 0)
    monkeypatch.setattr(Encoder, "loaded", lambda self: None)
    monkeypatch.setattr(Encoder, "load", lambda self: go.wait(30))
    async with client_of(options(seconds=0.2)) as client:
        answer = await client.post("/embed", json={"texts": ["a"]})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert take_stats().errors["DeadlineExceeded"] == before + 1
        service = client._transport.app.state.service  # type: ignore[attr-defined]
        assert service.loading
        service.stop()
        assert (await client.post("/embed", json={"texts": ["a"]})).json()["code"] == "stopping"
        go.set()


async def test_the_time_that_is_said_is_that_of_the_whole_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(self: Encoder, *arguments: Any, timeout_s: float) -> Any:
        raise DeadlineExceeded(waited_s=timeout_s)

    async def slow(self: background.Checks, *arguments: Any) -> int:
        await asyncio.sleep(0.3)
        return 0

    monkeypatch.setattr(Encoder, "aembed", late)
    monkeypatch.setattr(background.Checks, "run", slow)
    async with client_of(options(seconds=0.4, tokens=50)) as client:
        message = (await client.post("/embed", json={"texts": ["a word " * 50]})).json()["message"]
    assert 0.3 <= float(re.findall(r"after ([0-9.]+) s", message)[0]) < 10


async def test_what_is_refused_is_counted_by_its_kind() -> None:
    kinds = ("SettingRefused", "UnknownModel", "InputError", "RequestTooLarge")
    before = take_stats().errors
    async with client_of(options(texts=2)) as client:
        for body in ({"dimension": 3}, {"model": "x"}, {"texts": ["a"] * 3}):
            assert (await client.post("/embed", json={"texts": ["a"], **body})).status_code >= 400
        ids = {"model": "builtin", "input": [999_999]}
        assert (await client.post("/v1/embeddings", json=ids)).status_code == 400
    after = take_stats().errors
    assert {kind: after.get(kind, 0) - before.get(kind, 0) for kind in kinds} == dict.fromkeys(kinds, 1)


async def test_an_answer_does_not_grow_with_what_is_wrong() -> None:
    async with client_of(options()) as client:
        for path, body in (
            ("/v1/embeddings", {"model": "x" * 100_000, "input": "a"}),
            ("/embed", {"texts": ["a"], "x" * 100_000: 1}),
            ("/embed", {"texts": ["a"], "model": "x" * 100_000}),
        ):
            answer = await client.post(path, json=body)
            assert answer.status_code in (400, 404, 422)
            assert len(answer.content) < 3 * gate.SAID_CHARACTERS


async def test_token_ids_beyond_the_limit_and_too_many_checks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST_WAITING", 0)
    async with client_of(options(tokens=50)) as client:
        many = await client.post("/v1/embeddings", json={"model": "builtin", "input": [[1] * 40] * 2})
        full = await client.post("/v1/embeddings", json={"model": "builtin", "input": [1]})
        long = await client.post("/embed", json={"texts": ["a"] * 20})
    assert (many.status_code, full.status_code, long.status_code) == (413, 429, 503)


async def test_a_route_is_known_although_the_gate_refuses_it() -> None:
    async with client_of(options(api_key="secret", body_bytes=10)) as client:
        await client.post("/embed", json={"texts": ["a"]})
        key = {"x-api-key": "secret"}
        await client.post("/embed", json={"texts": ["a"]}, headers=key)
        wrong = await client.get("/embed", headers=key)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        await client.get("/nothing", headers=key)
        page = (await client.get("/metrics", headers=key)).text
    for route, status in (("/embed", 401), ("/embed", 413), ("/embed", 405), ("unknown", 404)):
        assert f'chroma_mlx_requests_total{{route="{route}",status="{status}"}} 1.0' in page


async def test_limits_are_413_before_anything_is_computed() -> None:
    async with client_of(options(texts=2, tokens=50, body_bytes=1000)) as client:
        many = await client.post("/embed", json={"texts": ["a"] * 3})
        long = await client.post("/embed", json={"texts": ["word " * 100]})
        large = await client.post("/embed", json={"texts": ["word " * 1000]})
        unsaid = await client.post("/embed", content=_parts(b" " * 1001), headers=JSON)
        right = await client.post("/embed", json={"texts": ["a word", "b"]})
    assert [answer.status_code for answer in (many, long, large, unsaid, right)] == [413, 413, 413, 413, 200]
    assert many.json()["field"] == "texts"
    assert "3 texts, and 2 is the most" in many.json()["message"]
    assert "more than 50 tokens" in long.json()["message"]
    assert "larger than 1000 bytes" in large.json()["message"]
    assert "larger than 1000 bytes" in unsaid.json()["message"]


async def _parts(body: bytes) -> Any:
    """A body whose length is not said before."""
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (
            QueueFull(pending=9, limit=9, retry_after_s=0.25),
            503,
            "overloaded",
            {"retry-after": "1", "retry-after-ms": "250"},
        ),
        (QueueFull(pending=9, limit=9, retry_after_s=2.5), 503, "overloaded", {"retry-after": "3"}),
        (DeadlineExceeded(waited_s=60.0), 504, "deadline_exceeded", {}),
        (SchedulerClosed(), 503, "stopping", {"retry-after": "1"}),
        (EngineError("MLX failed on a batch"), 500, "engine_error", {}),
        (ZeroDivisionError("nobody foresaw this"), 500, "internal_error", {}),
    ],
)
async def test_errors_of_the_engine_are_told_as_http_does(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    code: str,
    headers: dict[str, str],
) -> None:
    async def fail(*arguments: Any, **others: Any) -> None:
        raise error

    monkeypatch.setattr(Encoder, "aembed", fail)
    answer = await client.post("/embed", json={"texts": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert {key: answer.headers[key] for key in headers} == headers
    assert "foresaw" not in answer.text, "what the log is for"


async def test_a_client_that_left_is_not_computed(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(*arguments: Any, **others: Any) -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr(Encoder, "aembed", wait)
    made = client._transport.app  # type: ignore[attr-defined]
    messages: list[Any] = [
        {"type": "http.request", "body": b'{"texts": ["a"]}', "more_body": False},
        {"type": "http.request", "body": b"", "more_body": False},  # which says nothing
    ]

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await asked.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": headers, "query_string": b""}
    await made(scope, receive, send)
    assert cancelled.is_set()


async def test_a_key_is_asked_for_everywhere_but_by_probes() -> None:
    async with client_of(options(api_key="secret")) as client:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic secret"},
            {"x-api-key": "Secret"},
        ):
            answer = await client.post("/embed", json={"texts": ["a"]}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")
        for path in ("/models", "/metrics", "/docs", "/openapi.json", "/v1/models"):
            assert (await client.get(path)).status_code == 401
        assert (await client.get("/health")).status_code == 200
        for right in ({"authorization": "Bearer secret"}, {"authorization": "bearer  secret"}, {"x-api-key": "secret"}):
            assert (await client.post("/embed", json={"texts": ["a"]}, headers=right)).status_code == 200


async def test_request_ids_are_taken_where_they_can_be_printed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    for odd in ("two words", "x" * 200, ""):
        assert len((await client.get("/health", headers={"x-request-id": odd})).headers["x-request-id"]) == 32


async def test_models_and_metrics_say_what_is_there(client: httpx.AsyncClient) -> None:
    await client.post("/embed", json={"texts": TEXTS})
    [model] = (await client.get("/models")).json()
    assert (model["name"], model["dimension"], model["loaded"], model["default"]) == ("builtin", 256, True, True)
    assert model["memory_bytes"] > 1_000_000
    text = (await client.get("/metrics")).text
    assert 'chroma_mlx_requests_total{route="/embed",status="200"} 1.0' in text
    assert "chroma_mlx_texts_total" in text
    assert (await client.get("/ready")).json() == {"ready": True}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_a_body_that_is_not_said_to_be_json_is_refused(client: httpx.AsyncClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await client.post("/embed", content=b'{"texts": ["a"]}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in answer.json()["message"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
async def test_json_by_any_of_its_names_is_taken(client: httpx.AsyncClient, kind: str) -> None:
    answer = await client.post("/embed", content=b'{"texts": ["a"]}', headers={"content-type": kind})
    assert answer.status_code == 200, answer.text


async def test_a_client_that_leaves_before_its_body_came_is_no_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages = [{"type": "http.request", "body": b'{"texts"', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": headers}
    await app.make_app(options())(scope, receive, send)
    assert sent[0]["status"] == 499
    assert "request failed" not in caplog.text


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/models", {"code": "internal_error", "message": "The server failed; its log says how.", "field": None}),
        (
            "/v1/models",
            {
                "error": {
                    "message": "The server failed; its log says how.",
                    "type": "server_error",
                    "param": None,
                    "code": "internal_error",
                }
            },
        ),
    ],
)
async def test_a_failure_that_nobody_foresaw_is_an_error_of_the_api(
    path: str, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Any) -> Any:
        raise ZeroDivisionError("never shown")

    async with client_of(options()) as client:
        monkeypatch.setattr(EmbeddingService, "models", fails)
        monkeypatch.setattr(EmbeddingService, "names", property(fails))
        found = await client.get(path, headers={"x-request-id": "mine"})
    assert found.status_code == 500
    assert found.json() == (answer if path.startswith("/v1/") else {**answer, "request_id": "mine"})
    assert caplog.text.count("request failed") == 1


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8200", "[2001:db8::1]:8200", "127.0.0.1.evil.example"])
async def test_without_a_key_a_page_of_another_name_gets_nothing(host: str) -> None:
    for others, status in (({}, 403), ({"api_key": "k"}, 200), ({"insecure": True}, 200)):
        async with client_of(options(**others)) as client:
            headers = {"host": host, "x-api-key": "k"}
            answer = await client.post("/embed", json={"texts": ["a"]}, headers=headers)
            assert answer.status_code == status, answer.text
            assert (await client.get("/health", headers=headers)).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8200", "127.0.0.1:8200", "[::1]:8200"])
async def test_this_machines_names_are_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.post("/embed", json={"texts": ["a"]}, headers={"host": host})).status_code == 200
