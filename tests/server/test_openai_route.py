"""POST /v1/embeddings: as OpenAI's, by OpenAI's own client and LangChain's."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import openai
import pytest
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction
from served import Served, client_of, options, serve
from small import write_checkpoint

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.errors import QueueFull

FUNCTION = MLXEmbeddingFunction("builtin")


def ids_of(texts: list[str]) -> list[list[int]]:
    tokenizer = FUNCTION.encoder().load().tokenizer
    places = range(len(texts))
    return [row.tolist() for row in tokenizer.encode(texts, prefix="", max_tokens=99, refuse_long=True, places=places)]


TEXTS = ["the moon orbits the earth", "vega is a star"]


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": "builtin", **body})


async def test_texts_one_text_and_base64(client: httpx.AsyncClient) -> None:
    want = FUNCTION.encode(TEXTS)
    answer = (await ask(client, input=TEXTS, encoding_format=None)).json()
    assert (answer["object"], answer["model"]) == ("list", "builtin")
    assert [each["index"] for each in answer["data"]] == [0, 1]
    np.testing.assert_allclose([each["embedding"] for each in answer["data"]], want, atol=2e-6)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 5
    one = (await ask(client, input=TEXTS[1], encoding_format="base64", dimensions=64)).json()["data"]
    vector = np.frombuffer(base64.b64decode(one[0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(vector, FUNCTION.encode([TEXTS[1]])[0, :64] / np.linalg.norm(want[1, :64]), atol=2e-6)


async def test_token_ids_are_those_of_the_models_own_tokenizer(client: httpx.AsyncClient) -> None:
    rows = ids_of(TEXTS)
    want = FUNCTION.encode(TEXTS)
    for given in (rows, [row[:-1] for row in rows]):  # with the end token, and without
        found = (await ask(client, input=given)).json()["data"]
        np.testing.assert_allclose([each["embedding"] for each in found], want, atol=2e-6)
    one = (await ask(client, input=rows[0])).json()["data"]
    np.testing.assert_allclose(one[0]["embedding"], want[0], atol=2e-6)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": [[]]}, 400, "input[0]"),
        ({"input": ["a", 1]}, 400, "input[1]"),
        ({"input": ["a", None]}, 400, "input[1]"),
        ({"input": {"a": 1}}, 400, "input"),
        ({"input": [10**9]}, 400, "input[0]"),
        ({"input": [*ids_of(["a"]), list(range(50, 150))]}, 400, "input[1]"),
        ({"input": [-1]}, 400, "input[0]"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"input": "a", "dimensions": 1000}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "model"),
        ({"input": "a", "model": None}, 400, "model"),
    ],
)
async def test_errors_have_the_body_that_openai_gives(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str
) -> None:
    answer = await ask(client, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert error["message"]
    assert error["code"]


async def test_overload_is_429_with_the_time_to_come_back(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*arguments: Any, **others: Any) -> None:
        raise QueueFull(pending=9, limit=9, retry_after_s=1.5)

    monkeypatch.setattr(Encoder, "aembed", full)
    answer = await ask(client, input="a")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_openais_own_client(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model="builtin", input=TEXTS)  # base64, as the client asks by itself
        np.testing.assert_allclose([each.embedding for each in found.data], FUNCTION.encode(TEXTS), atol=2e-6)
        asked = client.embeddings.create(model="builtin:query", input=TEXTS, encoding_format="float")
        np.testing.assert_allclose([each.embedding for each in asked.data], FUNCTION.encode(TEXTS, "query"), atol=2e-6)
        assert [model.id for model in client.models.list()] == ["builtin"]
        with pytest.raises(openai.NotFoundError, match="does not serve"):
            client.embeddings.create(model="other", input="a")
        with pytest.raises(openai.BadRequestError, match="dimension is 999"):
            client.embeddings.create(model="builtin", input="a", dimensions=999)


async def test_a_model_is_shown_by_any_of_its_names_and_in_openais_form(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "org" / "name")
    configs = (EmbeddingConfig(model_name="builtin"), EmbeddingConfig(model_name=str(folder)))
    async with client_of(options(configs=configs)) as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [each["id"] for each in listed["data"]] == ["builtin", str(folder)]
        for name, model in (("builtin", 0), ("builtin:query", 0), (str(folder), 1), (quote(str(folder), safe=""), 1)):
            assert (await client.get(f"/v1/models/{name}")).json() == listed["data"][model]


def test_openais_own_client_lists_and_shows_models(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "org" / "name")
    with (
        serve(tmp_path, model="org/name") as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
    ):
        [listed] = client.models.list()
        assert (listed.id, listed.object, listed.owned_by) == ("org/name", "model", "local")
        assert client.models.retrieve("org/name") == listed
        for other in ("org/other", "org", "gpt-4o", "a?b#c"):
            with pytest.raises(openai.NotFoundError, match="does not serve the model") as raised:
                client.models.retrieve(other)
            error = raised.value
            assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
        routes = {line["route"] for line in map(json.loads, served.log.read_text().splitlines()) if "route" in line}
        assert "/v1/models/{model}" in routes
        assert not any("other" in route for route in routes)


def test_langchain(served: Served, tmp_path: Path) -> None:
    script = """
import json, sys
from langchain_openai import OpenAIEmbeddings
made = OpenAIEmbeddings(base_url=sys.argv[1], api_key="none", model="builtin", check_embedding_ctx_length=False)
print(json.dumps([made.embed_query("a star"), *made.embed_documents(["a star", "the moon"])]))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, f"{served.url}/v1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=dict(os.environ))
    assert found.returncode == 0, found.stderr
    want = FUNCTION.encode(["a star", "a star", "the moon"])
    np.testing.assert_allclose(json.loads(found.stdout), want, atol=2e-6)


def test_chromas_openai_function(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", "none")
    function = OpenAIEmbeddingFunction(
        api_key_env_var="CHROMA_OPENAI_API_KEY", model_name="builtin", api_base=f"{served.url}/v1"
    )
    np.testing.assert_allclose(function(TEXTS), FUNCTION.encode(TEXTS), atol=2e-6)
