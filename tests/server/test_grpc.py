"""gRPC: in this process, and by a server of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served import Served, free_port, options, serve

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.errors import DeadlineExceeded, EngineError, QueueFull, SchedulerClosed
from chroma_mlx.server import grpc_routes, messages
from chroma_mlx.server.grpc_routes import GRPCServer
from chroma_mlx.server.messages import EmbedRequest, EmbedResponse, ModelInfoRequest, ModelInfoResponse
from chroma_mlx.server.service import EmbeddingService

TEXTS = ["the moon orbits the earth", "vega is a star"]
FUNCTION = MLXEmbeddingFunction("builtin")
QUERY = 2
Status = grpc.StatusCode
Seen = list[tuple[str, int, float]]


class Client:
    """What protoc's stub is, and the health checks'. Of a channel, asynchronous or not."""

    def __init__(self, channel: Any) -> None:
        coders = (EmbedRequest.SerializeToString, EmbedResponse.FromString)
        self.embed = channel.unary_unary(f"/{messages.SERVICE}/Embed", *coders)
        self.raw = channel.unary_unary(f"/{messages.SERVICE}/Embed")
        self.stream = channel.stream_stream(f"/{messages.SERVICE}/EmbedStream", *coders)
        self.raw_stream = channel.stream_stream(f"/{messages.SERVICE}/EmbedStream")
        self.model_info = channel.unary_unary(
            f"/{messages.SERVICE}/ModelInfo", ModelInfoRequest.SerializeToString, ModelInfoResponse.FromString
        )
        self.health = health_pb2_grpc.HealthStub(channel)


@asynccontextmanager
async def client_of(seen: Seen | None = None, **others: Any) -> AsyncIterator[tuple[Client, GRPCServer]]:
    given = options(**others)
    observe = (lambda *each: None) if seen is None else (lambda *each: seen.append(each))
    server = GRPCServer(given, EmbeddingService(given), observe)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel), server
    await server.stop(0)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_of() as (made, _):
        yield made


def vectors_of(response: Any) -> np.ndarray[Any, Any]:
    return np.array([each.values for each in response.embeddings], dtype=np.float32)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def trailing(error: Any) -> dict[str, Any]:
    return dict(error.trailing_metadata())


# The messages


def test_the_descriptors_are_those_of_the_proto(tmp_path: Path) -> None:
    root = messages.DESCRIPTORS.parents[2]
    proto = messages.DESCRIPTORS.with_suffix(".proto").relative_to(root)
    out = tmp_path / "out.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", f"--descriptor_set_out={out}"]
    subprocess.run([*command, str(proto)], check=True, cwd=root, timeout=60)
    committed = FileDescriptorSet.FromString(messages.DESCRIPTORS.read_bytes())
    assert FileDescriptorSet.FromString(out.read_bytes()) == committed


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 31), (3, 32), (2, 256), (2, 5000)])
def test_vectors_are_serialised_as_protobuf_does(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    response = EmbedResponse(dimension=shape[1], model="m")
    found = EmbedResponse.FromString(messages.with_vectors(response, vectors))
    for row in vectors:
        response.embeddings.add().values.extend(row.tolist())
    assert found == response


# Calls


async def test_a_vector_for_each_text_is_that_of_the_function(client: Client) -> None:
    answer = await client.embed(EmbedRequest(texts=TEXTS))
    np.testing.assert_allclose(vectors_of(answer), FUNCTION.encode(TEXTS), atol=2e-6)
    assert (answer.dimension, answer.model) == (256, "builtin")
    assert answer.usage.tokens > 5
    assert answer.usage.milliseconds > 0
    assert not answer.HasField("error")


async def test_every_setting_reaches_the_engine() -> None:
    config = EmbeddingConfig(model_name="builtin", query_instruction="question: ")
    async with client_of(configs=(config,)) as (client, _):

        async def ask(**others: Any) -> np.ndarray[Any, Any]:
            return vectors_of(await client.embed(EmbedRequest(texts=["a star"], **others)))[0]

        plain = await ask()
        cut = await ask(dimension=64)
        assert cut.shape == (64,)
        np.testing.assert_allclose(cut, plain[:64] / np.linalg.norm(plain[:64]), atol=2e-6)
        assert np.abs(await ask(kind=QUERY) - plain).max() > 0.01
        assert np.abs(await ask(pooling="last") - plain).max() > 0.01
        long = await ask(normalize=False)
        np.testing.assert_allclose(long / np.linalg.norm(long), plain, atol=2e-6)
        np.testing.assert_array_equal(await ask(model="builtin", kind=1), plain)
        np.testing.assert_array_equal(await ask(model="builtin:query"), await ask(kind=QUERY))


@pytest.mark.parametrize(
    ("request_", "status", "code", "field"),
    [
        (EmbedRequest(), Status.INVALID_ARGUMENT, "invalid_request", "texts"),
        (EmbedRequest(texts=["a"], kind=7), Status.INVALID_ARGUMENT, "invalid_request", "kind"),
        (EmbedRequest(texts=["a"], dimension=0), Status.INVALID_ARGUMENT, "invalid_setting", "dimension"),
        (EmbedRequest(texts=["a"], dimension=257), Status.INVALID_ARGUMENT, "invalid_setting", "dimension"),
        (EmbedRequest(texts=["a"], pooling="max"), Status.INVALID_ARGUMENT, "invalid_setting", "pooling"),
        (EmbedRequest(texts=["a"], model="other"), Status.NOT_FOUND, "model_not_found", "model"),
        (EmbedRequest(texts=["a"], model=""), Status.NOT_FOUND, "model_not_found", "model"),
        (EmbedRequest(texts=["a"], model="\U0001f30b" * 50_000), Status.NOT_FOUND, "model_not_found", "model"),
        (EmbedRequest(texts=["a"] * 3), Status.INVALID_ARGUMENT, "request_too_large", "texts"),
        (EmbedRequest(texts=["word " * 100]), Status.INVALID_ARGUMENT, "request_too_large", "texts"),
    ],
)
async def test_what_is_not_valid_is_named(request_: Any, status: Any, code: str, field: str) -> None:
    async with client_of(texts=2, tokens=50) as (client, _):
        error = await failure(client.embed(request_))
    assert (error.code(), trailing(error)["error-code"], trailing(error)["error-field"]) == (status, code, field)
    assert error.details()


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05a", b"\x0a\x01\xff"])
async def test_what_is_no_message_is_refused(client: Client, data: bytes) -> None:
    error = await failure(client.raw(data))
    assert (error.code(), error.details()) == (Status.INVALID_ARGUMENT, "The message is no EmbedRequest.")


async def test_a_message_that_is_too_large_is_refused_before_it_is_read() -> None:
    async with client_of(body_bytes=1000) as (client, _):
        error = await failure(client.embed(EmbedRequest(texts=["word " * 1000])))
        assert error.code() == Status.RESOURCE_EXHAUSTED
        assert "larger than max" in error.details()
        await client.embed(EmbedRequest(texts=["a"]))


@pytest.mark.parametrize(
    ("raised", "status", "code", "milliseconds"),
    [
        (QueueFull(pending=9, limit=9, retry_after_s=0.25), Status.RESOURCE_EXHAUSTED, "overloaded", "250"),
        (DeadlineExceeded(waited_s=60.0), Status.DEADLINE_EXCEEDED, "deadline_exceeded", None),
        (SchedulerClosed(), Status.UNAVAILABLE, "stopping", "1000"),
        (EngineError("MLX failed on a batch"), Status.INTERNAL, "engine_error", None),
        (ZeroDivisionError("nobody foresaw this"), Status.INTERNAL, "internal_error", None),
    ],
)
async def test_errors_of_the_engine_are_told_as_grpc_does(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, status: Any, code: str, milliseconds: str | None
) -> None:
    async def fail(*arguments: Any, **others: Any) -> None:
        raise raised

    monkeypatch.setattr(Encoder, "aembed", fail)
    seen: Seen = []
    async with client_of(seen) as (client, _):
        error = await failure(client.embed(EmbedRequest(texts=["a"]), metadata=(("x-request-id", "mine-1"),)))
    assert (error.code(), trailing(error)["error-code"]) == (status, code)
    assert trailing(error).get("retry-after-ms") == milliseconds
    assert trailing(error)["x-request-id"] == "mine-1"
    assert "foresaw" not in error.details(), "what the log is for"
    [(route, number, _)] = seen
    assert route == "grpc Embed"
    assert number in (500, 503, 504)


async def test_a_client_that_left_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cancelled = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def wait(*arguments: Any, **others: Any) -> None:
        asked.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.release()
            raise

    monkeypatch.setattr(Encoder, "aembed", wait)
    seen: Seen = []
    async with client_of(seen) as (client, _):
        call = client.embed(EmbedRequest(texts=["a"]))
        await asyncio.wait_for(asked.acquire(), 10)
        call.cancel()
        await asyncio.wait_for(cancelled.acquire(), 10)
        stream = client.stream()
        for _ in range(3):
            await stream.write(EmbedRequest(texts=["a"]))
            await asyncio.wait_for(asked.acquire(), 10)
        stream.cancel()
        for _ in range(3):
            await asyncio.wait_for(cancelled.acquire(), 10)
        assert (await failure(client.embed(EmbedRequest(texts=["a"]), timeout=0.2))).code() == Status.DEADLINE_EXCEEDED
        await asyncio.wait_for(cancelled.acquire(), 10)
        while len(seen) < 3:
            await asyncio.sleep(0.01)
    assert [(route, status) for route, status, _ in seen] == [
        ("grpc Embed", 499),
        ("grpc EmbedStream", 499),
        ("grpc Embed", 499),
    ]


async def test_a_key_is_asked_for_everywhere_but_by_health_checks() -> None:
    async with client_of(api_key="secret") as (client, _):
        request = EmbedRequest(texts=["a"])
        for wrong in (
            (),
            (("authorization", "Bearer wrong"),),
            (("authorization", "Basic secret"),),
            (("x-api-key", "Secret"),),
        ):
            error = await failure(client.embed(request, metadata=wrong))
            assert (error.code(), trailing(error)["error-code"]) == (Status.UNAUTHENTICATED, "invalid_api_key")
        assert (await failure(client.model_info(ModelInfoRequest()))).code() == Status.UNAUTHENTICATED
        assert (await failure(client.stream(iter([request])).read())).code() == Status.UNAUTHENTICATED
        await client.health.Check(health_pb2.HealthCheckRequest())
        for key, value in (
            ("authorization", "Bearer secret"),
            ("authorization", "bearer  secret"),
            ("x-api-key", "secret"),
        ):
            assert (await client.embed(request, metadata=((key, value),))).dimension == 256


async def test_models_are_told(client: Client) -> None:
    await client.embed(EmbedRequest(texts=TEXTS))
    for request in (ModelInfoRequest(), ModelInfoRequest(model="builtin")):
        [model] = (await client.model_info(request)).models
        assert (model.name, model.dimension, model.loaded, model.is_default) == ("builtin", 256, True, True)
        assert model.memory_bytes > 1_000_000
    assert (await failure(client.model_info(ModelInfoRequest(model="other")))).code() == Status.NOT_FOUND


# Streams


async def test_a_stream_answers_in_order_and_goes_on_after_an_error(client: Client) -> None:
    requests = [EmbedRequest(texts=[f"text {number} " * (20 - number)]) for number in range(20)]
    requests[7] = EmbedRequest(texts=["a"], dimension=999)
    requests[9] = EmbedRequest()
    answers = [answer async for answer in client.stream(iter(requests))]
    assert len(answers) == 20
    assert (answers[7].error.code, answers[7].error.field) == ("invalid_setting", "dimension")
    assert (answers[9].error.code, answers[9].error.field) == ("invalid_request", "texts")
    right = sorted({*range(20)} - {7, 9})
    assert not any(answers[number].HasField("error") for number in right)
    found = np.concatenate([vectors_of(answers[number]) for number in right])
    np.testing.assert_allclose(found, FUNCTION.encode([requests[number].texts[0] for number in right]), atol=2e-6)


async def test_a_stream_tells_what_is_no_message_and_when_to_come_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*arguments: Any, **others: Any) -> None:
        raise QueueFull(pending=9, limit=9, retry_after_s=0.25)

    monkeypatch.setattr(Encoder, "aembed", full)
    given = [b"\xff", EmbedRequest(texts=["a"]).SerializeToString()]
    wrong, busy = [EmbedResponse.FromString(answer).error async for answer in client.raw_stream(iter(given))]
    assert (wrong.code, wrong.HasField("field"), wrong.HasField("retry_after_s")) == ("invalid_request", False, False)
    assert (busy.code, busy.retry_after_s) == ("overloaded", 0.25)


async def test_so_many_requests_of_a_stream_are_under_way_and_no_more(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most, real = 0, 0, Encoder.aembed

    async def count(*arguments: Any, **others: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return await real(*arguments, **others)

    monkeypatch.setattr(Encoder, "aembed", count)
    answers = [each async for each in client.stream(iter([EmbedRequest(texts=["a"])] * 40))]
    assert len(answers) == 40
    assert most == grpc_routes.AT_ONCE


async def test_a_stream_without_requests(client: Client) -> None:
    assert [each async for each in client.stream(iter(()))] == []


# Beginning and end


async def test_health_follows_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    states = health_pb2.HealthCheckResponse
    async with client_of() as (client, server):
        for name in ("", messages.SERVICE):
            answer = await client.health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == states.NOT_SERVING
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=messages.SERVICE))
        assert (await watch.read()).status == states.NOT_SERVING
        await server.loaded()
        assert (await watch.read()).status == states.SERVING
        assert (await client.health.Check(health_pb2.HealthCheckRequest())).status == states.SERVING
        unknown = await failure(client.health.Check(health_pb2.HealthCheckRequest(service="other")))
        assert unknown.code() == Status.NOT_FOUND
        stopping = asyncio.ensure_future(server.stop(30))
        assert (await watch.read()).status == states.NOT_SERVING
        await asyncio.wait_for(stopping, 10)


async def test_a_call_that_comes_while_the_server_stops_is_told_so() -> None:
    async with client_of() as (client, server):
        assert (await client.embed(EmbedRequest(texts=["a"]))).dimension == 256
        stopping = asyncio.ensure_future(server.stop(30))
        for call in (client.embed, client.raw_stream):
            refused = await failure(call(EmbedRequest(texts=["a"])) if call is client.embed else call().read())
            assert (refused.code(), trailing(refused)["error-code"]) == (Status.UNAVAILABLE, "stopping")
        await asyncio.wait_for(stopping, 10)


def hold_embedding(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """(that it was asked for, that it may go on) of whatever is embedded."""
    asked, go, real = asyncio.Event(), asyncio.Event(), Encoder.aembed

    async def wait(*arguments: Any, **others: Any) -> Any:
        asked.set()
        await go.wait()
        return await real(*arguments, **others)

    monkeypatch.setattr(Encoder, "aembed", wait)
    return asked, go


async def test_what_a_stream_has_sent_is_answered_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = hold_embedding(monkeypatch)
    async with client_of() as (client, server):
        stream = client.stream()
        await stream.write(EmbedRequest(texts=["a"]))
        idle = client.stream()
        await idle.write(EmbedRequest())
        assert (await idle.read()).error.code == "invalid_request"
        await asked.wait()
        stopping = asyncio.ensure_future(server.stop(30))
        refused = await failure(idle.read())
        assert (refused.code(), trailing(refused)["retry-after-ms"]) == (Status.UNAVAILABLE, "1000")
        go.set()
        assert (await stream.read()).dimension == 256
        assert (await failure(stream.read())).code() == Status.UNAVAILABLE
        await asyncio.wait_for(stopping, 10)


async def test_a_stream_that_has_all_its_answers_ends_well_though_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, go = hold_embedding(monkeypatch)
    async with client_of() as (client, server):
        stream = client.stream()
        await stream.write(EmbedRequest(texts=["a"]))
        await stream.done_writing()
        await asked.wait()
        await asyncio.sleep(0.2)  # that nothing more comes is known there
        stopping = asyncio.ensure_future(server.stop(30))
        await asyncio.sleep(0.1)
        go.set()
        assert (await stream.read()).dimension == 256
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == Status.OK
        await asyncio.wait_for(stopping, 10)


async def test_a_fault_in_a_stream_is_logged_with_the_calls_id(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*arguments: Any, **others: Any) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(Encoder, "aembed", fail)
    monkeypatch.setattr(grpc_routes.log, "propagate", True)
    async with client_of() as (client, _):
        stream = client.stream(iter([EmbedRequest(texts=["a"])]), metadata=(("x-request-id", "mine-1"),))
        assert (await stream.read()).error.code == "internal_error"
    [failed] = [record for record in caplog.records if record.message == "request failed"]
    assert failed.fields["request_id"] == "mine-1"  # type: ignore[attr-defined]


# A process


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, int]]:
    """A server of both protocols, and the port of gRPC."""
    port = free_port()
    with serve(tmp_path_factory.mktemp("both"), "--grpc-port", str(port)) as served:
        yield served, port


def test_a_process_serves_both(both: tuple[Served, int]) -> None:
    served, port = both
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        answer = client.embed(EmbedRequest(texts=TEXTS, kind=QUERY), timeout=30)
        np.testing.assert_allclose(vectors_of(answer), FUNCTION.encode(TEXTS, "query"), atol=2e-6)
        answers = [*client.stream(iter([EmbedRequest(texts=[text]) for text in TEXTS]), timeout=30)]
        np.testing.assert_allclose(vectors_of(answers[1])[0], FUNCTION.encode(TEXTS)[1], atol=2e-6)
        health = client.health.Check(health_pb2.HealthCheckRequest(service=messages.SERVICE), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    page = httpx.get(f"{served.url}/metrics").text
    assert 'chroma_mlx_requests_total{route="grpc Embed",status="200"} 1.0' in page
    assert 'chroma_mlx_requests_total{route="grpc EmbedStream",status="200"} 1.0' in page
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    [line] = [line for line in lines if line.get("route") == "grpc Embed"]
    assert (line["status"], line["texts"], line["model"]) == (200, 2, "builtin")
    [line] = [line for line in lines if line.get("route") == "grpc EmbedStream"]
    assert (line["requests"], line["failed"], line["texts"]) == (2, 0, 2)
    assert "moon" not in served.log.read_text(), "no text is logged"


def test_a_port_that_is_taken_is_said(both: tuple[Served, int], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", str(tmp_path), "--port", "0"]
    found = subprocess.run(
        [*command, "--grpc-port", str(both[1])], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert found.returncode == 1
    assert f"gRPC cannot listen on 127.0.0.1:{both[1]}" in found.stderr
    assert "Traceback" not in found.stderr
    assert "could not be loaded" not in found.stderr


def test_a_model_that_is_not_to_be_had_ends_both(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", str(tmp_path), "--port", "0"]
    found = subprocess.run([*command, "--grpc-port", "0"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 1
    events = [json.loads(line)["event"] for line in found.stderr.splitlines()]
    assert "the model could not be loaded" in events


def test_it_ends_at_once_when_it_is_told_a_second_time(tmp_path: Path) -> None:
    port = free_port()
    with serve(tmp_path, "--grpc-port", str(port)) as served, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        texts = [f"text {number} " * 100 for number in range(400)]
        asked = Client(channel).embed.future(EmbedRequest(texts=texts), timeout=120)
        while "chroma_mlx_batches_total 0" in httpx.get(f"{served.url}/metrics").text:
            assert not asked.done()
        served.process.send_signal(signal.SIGINT)
        while "Shutting down" not in served.log.read_text():
            time.sleep(0.02)
        assert served.stop(signal.SIGINT) == 130
        assert asked.code() in (Status.UNAVAILABLE, Status.CANCELLED)


def test_it_stops_when_what_is_under_way_is_answered(tmp_path: Path) -> None:
    port = free_port()
    texts = [f"text {number} " * 40 for number in range(100)]
    with serve(tmp_path, "--grpc-port", str(port)) as served, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = Client(channel).embed.future(EmbedRequest(texts=texts), timeout=120)
        while "chroma_mlx_batches_total 0" in httpx.get(f"{served.url}/metrics").text:
            assert not asked.done()
        assert served.stop(signal.SIGTERM) == 0
        assert len(asked.result().embeddings) == 100
