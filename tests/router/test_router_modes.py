"""The three modes, the fallback, and what the router says of its work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb.api import ClientAPI
from small import write_checkpoint

from chroma_mlx import EmbeddingConfig, EmbeddingRouter
from chroma_mlx.errors import (
    ConfigError,
    DimensionMismatch,
    DownloadError,
    EngineError,
    FallbackWarning,
    InputError,
    ModelNotFound,
    RecordError,
    VectorsOnly,
)

WIDTH = 8
UNIT = [1.0] + [0.0] * (WIDTH - 1)

WITHOUT_MODEL = """
import json, sys
import chromadb
from chromadb.config import Settings
from chroma_mlx import EmbeddingRouter

client = chromadb.PersistentClient(sys.argv[1], settings=Settings(anonymized_telemetry=False))
router = EmbeddingRouter(mode="user_provided", query_function=lambda texts: [[1.0, 0.0]] * len(texts))
collection = router.collection(client, "notes")
collection.upsert([{"id": "a", "text": "moon", "vector": [1.0, 0.0]}, {"id": "b", "vector": [0.0, 1.0]}])
found = [collection.query(vector=[0.0, 1.0], n_results=1).ids, collection.query("moon", n_results=1).ids]
healthy = router.health_check().healthy
router.load()
loaded = sorted({name.split(".")[0] for name in sys.modules} & {"mlx", "tokenizers", "transformers", "torch"})
print(json.dumps([found, healthy, loaded, router.model_info().loaded]))
"""


def absent(tmp_path: Path, **settings: Any) -> EmbeddingRouter:
    """A router of a model that is not cached and must not be fetched."""
    return EmbeddingRouter(model_name="qwen3-0.6b-4bit", cache_dir=tmp_path / "empty", auto_download=False, **settings)


def test_mode_user_provided_loads_no_model_and_no_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MODEL, str(tmp_path / "data")], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    found, healthy, loaded, model_loaded = json.loads(done.stdout.splitlines()[-1])
    assert found == [["b"], ["a"]]
    assert healthy is True
    assert loaded == []
    assert model_loaded is False


@pytest.mark.parametrize("method", ["add", "upsert", "update"])
def test_text_without_a_vector_is_refused_in_mode_user_provided(client: ClientAPI, name: str, method: str) -> None:
    collection = EmbeddingRouter(mode="user_provided").collection(client, name)
    collection.upsert([{"id": "old", "text": "old", "vector": UNIT}])

    with pytest.raises(RecordError, match=r"Record 1 \(id 'old'\): it has a text and no vector, and mode 'user_prov"):
        getattr(collection, method)([{"id": "b", "vector": UNIT}, {"id": "old", "text": "new"}])

    assert collection.get()["documents"] == ["old"]


def test_a_record_without_anything_is_asked_for_a_vector_in_mode_user_provided(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(mode="user_provided").collection(client, name)

    with pytest.raises(RecordError, match=r"Record 0 \(id 'a'\): it has neither text nor vector\. Give it a vector\."):
        collection.upsert([{"id": "a"}])

    assert collection.count() == 0


def test_a_query_by_text_in_mode_user_provided_says_what_to_pass(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(mode="user_provided").collection(client, name)
    collection.upsert([{"id": "a", "vector": UNIT}])

    with pytest.raises(VectorsOnly, match=r"query\(vector=…\).*query_function=function"):
        collection.query("moon")

    assert collection.query(vector=UNIT).ids == ["a"]


def test_embed_in_mode_user_provided_says_what_to_pass() -> None:
    router = EmbeddingRouter(mode="user_provided")

    with pytest.raises(VectorsOnly, match=r"embeds no text. Pass the vector"):
        router.embed(["moon"])
    with pytest.raises(VectorsOnly, match="query_function"):
        router.embed(["moon"], kind="query")


@pytest.mark.parametrize("form", [list, tuple, np.asarray, lambda rows: [np.array(row, np.float16) for row in rows]])
def test_query_function_embeds_the_queries(client: ClientAPI, name: str, form: Callable[..., Any]) -> None:
    asked: list[list[str]] = []

    def function(texts: list[str]) -> Any:
        asked.append(texts)
        return form([np.roll(UNIT, 0 if "moon" in text else 1) for text in texts])

    collection = EmbeddingRouter(mode="user_provided", query_function=function).collection(client, name)
    collection.upsert([{"id": "moon", "vector": UNIT}, {"id": "sun", "vector": np.roll(UNIT, 1)}])

    found = collection.query_batch(["the sun", "the moon"], n_results=1)

    assert [hits.ids for hits in found] == [["sun"], ["moon"]]
    assert asked == [["the sun", "the moon"]]
    with pytest.raises(RecordError, match="it has a text and no vector"):
        collection.upsert([{"id": "c", "text": "moon"}])


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([UNIT, UNIT], EngineError, "query_function returned 2 vectors for 1 texts"),
        ([], EngineError, "query_function returned 0 vectors for 1 texts"),
        ([[1.0, 0.0]], DimensionMismatch, "stores 8-d vectors, but .* 2 dimensions"),
        ([[float("nan")] * WIDTH], InputError, "Query vector 0 is not finite"),
        ([[0.0] * WIDTH], InputError, "Query vector 0 is zero"),
        ([["a"] * WIDTH], EngineError, "query_function returned no vectors"),
        ([[[1.0]]], EngineError, "query_function returned no vectors"),
        ([[1.0, [2.0]]], EngineError, "query_function returned no vectors"),
        (None, EngineError, "query_function returned"),
        (1.0, EngineError, "query_function returned"),
    ],
    ids=["two", "none", "narrow", "nan", "zero", "texts", "deep", "ragged", "None", "number"],
)
def test_what_query_function_returns_is_checked(
    client: ClientAPI, name: str, answer: Any, error: type[Exception], message: str
) -> None:
    collection = EmbeddingRouter(mode="user_provided", query_function=lambda _: answer).collection(client, name)
    collection.upsert([{"id": "a", "vector": UNIT}])

    with pytest.raises(error, match=message):
        collection.query("moon")


def test_an_error_of_query_function_comes_through(client: ClientAPI, name: str) -> None:
    def function(texts: list[str]) -> Any:
        raise KeyError("no such key")

    router = EmbeddingRouter(mode="user_provided", query_function=function)

    with pytest.raises(KeyError, match="no such key"):
        router.collection(client, name).query("moon")
    assert not router.health_check()


@pytest.mark.parametrize("mode", ["mlx", "mock"])
def test_an_application_may_pass_query_function_in_every_mode(mode: Any) -> None:
    def never(texts: list[str]) -> Any:
        raise AssertionError("asked, although the mode embeds queries itself")

    router = EmbeddingRouter(model_name="builtin", mode=mode, query_function=never)

    assert router.embed(["a question"], "query").shape == (1, 256)
    assert router.with_mode("user_provided").mode == "user_provided"


def test_mode_mock_is_as_wide_as_the_model_it_stands_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")

    assert EmbeddingRouter(mode="mock", model_name="builtin").embed(["a"]).shape == (1, 256)
    assert EmbeddingRouter(mode="mock", model_name=str(folder)).embed(["a"]).shape == (1, 32)
    assert EmbeddingRouter(mode="mock", model_name="no/such-model", dimension=3).embed(["a"]).shape == (1, 3)
    with pytest.raises(ConfigError, match=r"'no/such-model', which is not in the table .* Set `dimension`"):
        EmbeddingRouter(mode="mock", model_name="no/such-model")


@pytest.mark.parametrize("settings", [{"mode": "mock", "dimension": 8}, {"model_name": "builtin"}])
def test_embed_gives_what_a_collection_stores(client: ClientAPI, name: str, settings: dict[str, Any]) -> None:
    router = EmbeddingRouter(**settings)
    collection = router.collection(client, name)
    collection.upsert([{"id": "a", "text": "the moon"}, {"id": "b", "text": "the sun"}])

    vectors = router.embed(["the moon", "the sun"])

    assert vectors.dtype == np.float32
    stored = collection.get(["a", "b"], include=["embeddings"])
    order = [stored["ids"].index(id) for id in ("a", "b")]
    np.testing.assert_allclose(vectors, np.array(stored["embeddings"])[order], atol=1e-5)
    hit = collection.query(vector=router.embed(["moon"], kind="query")[0], n_results=1)[0]
    assert hit.similarity == pytest.approx(collection.query("moon", n_results=1)[0].similarity, abs=1e-5)


def test_embed_refuses_another_kind(mock: EmbeddingRouter) -> None:
    with pytest.raises(ConfigError, match="kind is 'passage', which is not allowed"):
        mock.embed(["a"], kind="passage")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one str, not a list"):
        mock.embed("a")


def test_a_model_that_is_not_to_be_had_is_an_error_at_the_first_text(
    client: ClientAPI, name: str, tmp_path: Path
) -> None:
    router = absent(tmp_path)
    collection = router.collection(client, name)

    assert router.mode == "mlx"
    with pytest.raises(DownloadError, match=r"qwen3-0.6b-4bit|Qwen3-Embedding-0.6B"):
        collection.upsert([{"id": "a", "text": "moon"}, {"id": "b", "vector": [1.0] * 1024}])
    with pytest.raises(DownloadError, match=r"qwen3-0.6b-4bit|Qwen3-Embedding-0.6B"):
        collection.query("moon")
    with pytest.raises(DownloadError, match=r"qwen3-0.6b-4bit|Qwen3-Embedding-0.6B"):
        router.load()

    assert collection.count() == 0
    assert collection.upsert([{"id": "b", "vector": [1.0] * 1024}]).provided == 1


def test_fallback_mock_takes_over_with_a_warning(client: ClientAPI, name: str, tmp_path: Path) -> None:
    router = absent(tmp_path, fallback="mock")

    with pytest.warns(FallbackWarning, match="Vectors are mock ones.*model is not to be had") as warned:
        collection = router.collection(client, name)
    collection.upsert([{"id": "a", "text": "moon"}])

    assert len(warned) == 1
    assert Path(warned[0].filename) == Path(__file__)
    assert router.mode == "mock"
    assert collection.query("moon")[0].similarity == pytest.approx(1, abs=1e-5)
    health = router.health_check()
    assert (health.healthy, health.mode) == (True, "mock")
    assert "(fallback: The model" in health.detail
    assert (router.model_info().mode, router.model_info().dimension) == ("mock", 1024)
    assert router.embed(["a"]).shape == (1, 1024)


@pytest.mark.parametrize(
    "ask",
    [
        lambda router: router.embedding_function,
        lambda router: router.embed(["a"]),
        lambda router: router.load(),
    ],
    ids=["embedding_function", "embed", "load"],
)
def test_the_warning_of_the_fallback_is_of_the_line_that_asked(tmp_path: Path, ask: Callable[..., Any]) -> None:
    router = absent(tmp_path, fallback="mock")

    with pytest.warns(FallbackWarning, match="Vectors are mock ones") as warned:
        ask(router)

    assert Path(warned[0].filename) == Path(__file__)


def test_what_only_looks_does_not_decide_on_the_fallback(tmp_path: Path) -> None:
    router = absent(tmp_path, fallback="mock")

    health = router.health_check()
    assert (health.healthy, health.mode) == (True, "mock")
    assert "mock vectors take the model's place (fallback): The model" in health.detail
    assert (router.model_info().mode, router.model_info().loaded) == ("mlx", False)
    assert router.mode == "mlx"


def test_fallback_mock_does_not_take_over_where_the_model_is_there() -> None:
    router = EmbeddingRouter(model_name="builtin", fallback="mock")

    assert router.mode == "mlx"
    assert "fallback" not in router.health_check().detail


def test_fallback_mock_does_not_hide_a_model_that_does_not_exist(tmp_path: Path) -> None:
    router = EmbeddingRouter(model_name=str(tmp_path / "nowhere"), fallback="mock")

    with pytest.raises(ModelNotFound, match="nowhere"):
        router.embed(["a"])


def test_fallback_mock_leaves_the_other_modes_alone() -> None:
    assert EmbeddingRouter(mode="user_provided", fallback="mock").mode == "user_provided"
    assert EmbeddingRouter(mode="mock", fallback="mock", dimension=8).mode == "mock"


def test_with_mode_keeps_the_rest_of_the_configuration() -> None:
    router = EmbeddingRouter(model_name="builtin", dimension=128, max_tokens=32)

    other = router.with_mode("mock")

    assert (router.mode, other.mode) == ("mlx", "mock")
    assert (other.config.model_name, other.config.dimension, other.config.max_tokens) == ("builtin", 128, 32)
    assert other.with_mode("mlx").config == router.config
    with pytest.raises(ConfigError, match=r"mode is 'cloud', which is not allowed. Set it to 'mlx'"):
        router.with_mode("cloud")  # type: ignore[arg-type]


def test_with_mode_keeps_query_function_for_the_mode_that_takes_it() -> None:
    router = EmbeddingRouter(mode="user_provided", query_function=lambda texts: [UNIT] * len(texts))

    assert router.with_mode("user_provided").embed(["a"], kind="query").tolist() == [UNIT]
    assert router.with_mode("mock").mode == "mock"


def test_settings_of_the_call_are_above_the_configuration_object() -> None:
    config = EmbeddingConfig(model_name="builtin", dimension=128)

    assert EmbeddingRouter(config, dimension=64).config.dimension == 64
    assert EmbeddingRouter(config).config == config


def test_an_unknown_setting_is_a_config_error_as_in_a_file() -> None:
    with pytest.raises(ConfigError, match="dimensions"):
        EmbeddingRouter(model_name="builtin", dimensions=64)


def failing_query_function(texts: list[str]) -> Any:
    raise RuntimeError


@pytest.mark.parametrize(
    ("make", "healthy", "mode", "detail"),
    [
        (lambda path: EmbeddingRouter(model_name="builtin"), True, "mlx", "builtin embedded a text"),
        (lambda path: EmbeddingRouter(mode="mock", dimension=8), True, "mock", "no model is used"),
        (lambda path: EmbeddingRouter(mode="user_provided"), True, "user_provided", "vectors are made elsewhere"),
        (lambda path: absent(path), False, "mlx", "not in the cache, and a health check fetches nothing"),
        (lambda path: EmbeddingRouter(model_name=str(path / "nowhere")), False, "mlx", "nowhere"),
        (lambda path: EmbeddingRouter(model_name=str(path)), False, "mlx", "config.json"),
        (
            lambda path: EmbeddingRouter(mode="user_provided", query_function=failing_query_function),
            False,
            "user_provided",
            "RuntimeError",
        ),
    ],
    ids=["mlx", "mock", "user_provided", "absent", "nowhere", "empty folder", "query_function"],
)
def test_health_check_says_what_is_and_raises_nothing(
    tmp_path: Path, make: Callable[[Path], EmbeddingRouter], healthy: bool, mode: str, detail: str
) -> None:
    health = make(tmp_path).health_check()

    assert (health.healthy, bool(health), health.mode) == (healthy, healthy, mode)
    assert detail in health.detail
    assert health.milliseconds >= 0


def test_health_check_counts_nothing() -> None:
    router = EmbeddingRouter(model_name="builtin")

    assert router.health_check()

    assert router.usage == type(router.usage)()


def test_model_info_knows_device_and_memory_once_the_model_is_loaded(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    router = EmbeddingRouter(model_name=str(folder), max_tokens=100)

    before = router.model_info()
    router.load()
    after = router.model_info()

    assert (before.loaded, before.device, before.memory_bytes) == (False, None, None)
    assert (before.mode, before.name, before.dimension, before.max_tokens) == ("mlx", str(folder), 32, 100)
    assert before.quantization == "float32"
    assert after.loaded
    assert after.device in ("cpu", "gpu")
    assert (after.memory_bytes or 0) > 32 * 260 * 2
    assert json.loads(json.dumps(after.to_dict()))["dimension"] == 32


def test_model_info_of_a_model_that_is_not_here_has_what_the_table_says(tmp_path: Path) -> None:
    info = absent(tmp_path).model_info()

    assert (info.dimension, info.max_tokens, info.quantization, info.loaded) == (1024, 32_768, None, False)


def test_model_info_of_the_other_modes_names_no_model(mock: EmbeddingRouter) -> None:
    assert mock.model_info().to_dict() == {
        "mode": "mock",
        "name": "chroma_mlx_mock",
        "dimension": 8,
        "max_tokens": None,
        "device": None,
        "quantization": None,
        "memory_bytes": None,
        "loaded": False,
    }
    assert EmbeddingRouter(mode="user_provided", dimension=3).model_info().dimension == 3


def test_a_write_says_what_it_did_and_the_router_adds_it_up(client: ClientAPI, name: str) -> None:
    router = EmbeddingRouter(model_name="builtin")
    collection = router.collection(client, name)
    vector = np.eye(256)[0]

    first = collection.upsert([{"id": "a", "text": "moon"}, {"id": "b", "text": "sun", "vector": vector}])
    second = collection.upsert(
        [{"id": "b", "text": "star"}, {"id": "c", "vector": vector}, {"id": "d", "text": "star"}]
    )
    third = collection.update([{"id": "a", "metadata": {"n": 1}}])
    found = collection.query_batch(["moon", "sun"])
    collection.query(vector=vector)
    router.embed(["moon", "sun"])

    counts = [(result.inserted, result.updated, result.embedded, result.provided) for result in (first, second, third)]
    assert counts == [(2, 0, 1, 1), (2, 1, 2, 1), (0, 1, 0, 0)]
    assert first.tokens > 0
    assert second.tokens > 0
    assert third.tokens == 0
    assert min(first.milliseconds, second.milliseconds, third.milliseconds) > 0
    assert [len(hits) for hits in found] == [4, 4]
    usage = router.usage
    assert (usage.writes, usage.queries, usage.inserted, usage.updated) == (3, 3, 4, 2)
    assert (usage.embedded, usage.provided) == (5, 2)
    assert usage.tokens > first.tokens + second.tokens
    assert usage.milliseconds > first.milliseconds + second.milliseconds + third.milliseconds


def test_equal_texts_are_computed_once(client: ClientAPI, name: str) -> None:
    router = EmbeddingRouter(model_name="builtin")

    one = router.collection(client, f"{name}-1").upsert([{"id": "a", "text": "moon"}])
    many = router.collection(client, f"{name}-2").upsert([{"id": str(n), "text": "moon"} for n in range(9)])

    assert many.tokens == one.tokens > 0
    assert many.embedded == 9


def test_mode_mock_computes_no_tokens(client: ClientAPI, name: str, mock: EmbeddingRouter) -> None:
    collection = mock.collection(client, name)

    assert collection.upsert([{"id": "a", "text": "moon"}]).tokens == 0
    assert (mock.usage.embedded, mock.usage.tokens) == (1, 0)
