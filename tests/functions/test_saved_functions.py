"""The functions of modes mock and user_provided, as Chroma saves and rebuilds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import hypothesis.strategies as st
import jsonschema
import numpy as np
import pytest
from chromadb.api import ClientAPI
from chromadb.config import Settings
from chromadb.utils.embedding_functions import known_embedding_functions
from hypothesis import given

from chroma_mlx import MLXEmbeddingFunction, MockEmbeddingFunction, UserProvidedFunction
from chroma_mlx.errors import ConfigError, VectorsOnly
from chroma_mlx.functions.saved import SavedFunction, validator

ROOT = Path(__file__).parents[2]
FUNCTIONS: list[tuple[type[SavedFunction], dict[str, Any], str]] = [
    (MockEmbeddingFunction, {"dimension": 8}, "chroma_mlx_mock"),
    (UserProvidedFunction, {}, "chroma_mlx_user_provided"),
]
each_function = pytest.mark.parametrize(("kind", "config", "name"), FUNCTIONS, ids=[name for *_, name in FUNCTIONS])


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientAPI]:
    client = chromadb.PersistentClient(tmp_path / "data", settings=Settings(anonymized_telemetry=False))
    yield client
    client.close()


@pytest.fixture
def collection_name() -> str:
    return f"saved-{uuid.uuid4().hex}"


def reopen(path: Path, name: str, code: str) -> Any:
    """What `code` puts into `answer`, in another process that knows of the package by `import chroma_mlx` alone."""
    script = f"""
import json, sys
import chromadb
from chromadb.config import Settings
import chroma_mlx
client = chromadb.PersistentClient(sys.argv[1], settings=Settings(anonymized_telemetry=False))
collection = client.get_collection(sys.argv[2])
{code}
print(json.dumps(answer))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        [sys.executable, "-c", script, str(path), name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# --- What is saved -----------------------------------------------------------------------------------------


@each_function
def test_it_is_registered_under_its_name_and_is_not_legacy(
    kind: type[SavedFunction], config: dict[str, Any], name: str
) -> None:
    function = kind(**config)

    assert known_embedding_functions[name] is kind
    assert kind.name() == function.name() == name
    assert function.is_legacy() is False
    assert function.default_space() == "cosine"
    assert set(function.supported_spaces()) == {"cosine", "l2", "ip"}


@given(st.integers(1, 2**31))
def test_a_mock_config_survives_strict_json_and_rebuilding(dimension: int) -> None:
    function = MockEmbeddingFunction(dimension)

    saved = json.loads(json.dumps(function.get_config(), allow_nan=False))

    assert saved == {"dimension": dimension}
    MockEmbeddingFunction.validate_config(saved)
    rebuilt = MockEmbeddingFunction.build_from_config(saved)
    assert rebuilt == function
    assert hash(rebuilt) == hash(function)
    assert rebuilt.get_config() == saved


def test_a_user_provided_config_is_empty_and_rebuilds() -> None:
    function = UserProvidedFunction()

    assert json.dumps(function.get_config(), allow_nan=False) == "{}"
    assert UserProvidedFunction.build_from_config({}) == function


def test_a_mock_config_without_a_dimension_has_the_default() -> None:
    assert MockEmbeddingFunction.build_from_config({}) == MockEmbeddingFunction() == MockEmbeddingFunction(1024)


@each_function
def test_chroma_saves_it_as_known_with_its_config(
    client: ClientAPI, collection_name: str, kind: type[SavedFunction], config: dict[str, Any], name: str
) -> None:
    collection = client.create_collection(collection_name, embedding_function=kind(**config))

    for handle in (collection, client.get_collection(collection_name)):
        assert handle.configuration_json["embedding_function"] == {"type": "known", "name": name, "config": config}
        assert handle.configuration["embedding_function"] == kind(**config)


@each_function
def test_the_schema_is_draft_7_and_allows_no_other_key(
    kind: type[SavedFunction], config: dict[str, Any], name: str
) -> None:
    schema = validator(name).schema

    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(config)
    assert schema["version"].count(".") == 2
    assert all(field["description"] for field in schema["properties"].values())


@each_function
def test_making_one_warns_of_nothing(kind: type[SavedFunction], config: dict[str, Any], name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function = kind(**config)
        kind.build_from_config(function.get_config())

    assert [str(warning.message) for warning in caught] == []


# --- What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"dimension": 0}, "dimension: 0 is less than the minimum"),
        ({"dimension": 1.5}, "dimension: 1.5 is not of type 'integer'"),
        ({"dimension": "8"}, "dimension: '8' is not of type 'integer'"),
        ({"dimension": True}, "dimension: True is not of type 'integer'"),
        ({"dimension": None}, "dimension: None is not of type 'integer'"),
        ({"dimension": 8, "seed": 1}, "'seed' was unexpected"),
        ({}, "'dimension' is a required property"),
        ([], "is not of type 'object'"),
        (None, "is not of type 'object'"),
    ],
)
def test_a_mock_config_that_is_none_is_refused_by_name(config: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        MockEmbeddingFunction.validate_config(config)
    if config not in ({}, []):  # of these every key is left out
        with pytest.raises(ConfigError, match=match):
            MockEmbeddingFunction.build_from_config(config)


def test_a_whole_decimal_number_is_a_dimension_for_all_or_for_none() -> None:
    """JSON Schema takes 8.0 for a whole number; then the function must take it too, or the schema must not."""
    with pytest.raises(ConfigError, match="dimension"):
        MockEmbeddingFunction(8.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dimension"):
        MockEmbeddingFunction.build_from_config({"dimension": 8.0})


@pytest.mark.parametrize(
    ("config", "match"), [({"dimension": 8}, "'dimension' was unexpected"), (None, "is not of type 'object'")]
)
def test_a_user_provided_config_that_is_not_empty_is_refused(config: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        UserProvidedFunction.validate_config(config)
    with pytest.raises(ConfigError, match=match):
        UserProvidedFunction.build_from_config(config)


def test_a_change_of_the_dimension_is_refused_and_none_is_not() -> None:
    function = MockEmbeddingFunction(8)

    with pytest.raises(ConfigError, match=r"Changing dimension from 8 to 16 would make vectors that do not match"):
        function.validate_config_update({"dimension": 8}, {"dimension": 16})
    with pytest.raises(ConfigError, match="dimension: 0 is less than the minimum"):
        function.validate_config_update({"dimension": 8}, {"dimension": 0})
    assert function.validate_config_update({"dimension": 8}, {"dimension": 8}) is None
    assert UserProvidedFunction().validate_config_update({}, {}) is None


def test_modify_refuses_another_dimension(client: ClientAPI, collection_name: str) -> None:
    collection = client.create_collection(collection_name, embedding_function=MockEmbeddingFunction(8))

    with pytest.raises(ConfigError, match=r"dimension from 8 to 16 .* call modify again with the old settings"):
        collection.modify(configuration={"embedding_function": MockEmbeddingFunction(16)})
    collection.modify(configuration={"embedding_function": MockEmbeddingFunction(8)})

    assert client.get_collection(collection_name).configuration["embedding_function"] == MockEmbeddingFunction(8)


# --- Equality ----------------------------------------------------------------------------------------------


def test_functions_are_equal_by_their_kind_and_config() -> None:
    assert MockEmbeddingFunction(8) == MockEmbeddingFunction(8)
    assert MockEmbeddingFunction(8) != MockEmbeddingFunction(16)
    assert UserProvidedFunction() == UserProvidedFunction()
    assert UserProvidedFunction() != MockEmbeddingFunction(8)
    assert MockEmbeddingFunction() != MLXEmbeddingFunction("builtin")
    assert MockEmbeddingFunction(8) != {"dimension": 8}
    assert len({MockEmbeddingFunction(8), MockEmbeddingFunction(8), MockEmbeddingFunction(9)}) == 2
    assert len({UserProvidedFunction(), UserProvidedFunction(), MockEmbeddingFunction(8)}) == 2
    assert repr(MockEmbeddingFunction(8)) == "MockEmbeddingFunction(dimension=8)"
    assert repr(UserProvidedFunction()) == "UserProvidedFunction()"


# --- Another process ---------------------------------------------------------------------------------------


def test_another_process_rebuilds_the_mock_function_and_finds_the_text(
    client: ClientAPI, collection_name: str, tmp_path: Path
) -> None:
    collection = client.create_collection(collection_name, embedding_function=MockEmbeddingFunction(32))
    collection.add(ids=["moon", "bread"], documents=["The Moon orbits.", "Bread is baked."])

    code = """
answer = [repr(collection.configuration["embedding_function"]),
          collection.query(query_texts=["The Moon orbits."])["ids"][0],
          collection.query(query_texts=["The Moon orbits."])["distances"][0][0]]
"""
    function, ids, distance = reopen(tmp_path / "data", collection_name, code)

    assert (function, ids) == ("MockEmbeddingFunction(dimension=32)", ["moon", "bread"])
    assert distance == pytest.approx(0.0, abs=1e-6)


def test_another_process_rebuilds_the_user_provided_function_which_embeds_nothing(
    client: ClientAPI, collection_name: str, tmp_path: Path
) -> None:
    collection = client.create_collection(collection_name, embedding_function=UserProvidedFunction())
    collection.add(ids=["moon"], documents=["The Moon orbits."], embeddings=[[1.0, 2.0]])

    code = """
def caught(call, **arguments):
    try:
        call(**arguments)
    except Exception as error:
        return type(error).__name__

answer = [repr(collection.configuration["embedding_function"]),
          caught(collection.add, ids=["a"], documents=["text"]),
          caught(collection.query, query_texts=["text"]),
          collection.query(query_embeddings=[[1.0, 2.0]])["ids"][0], collection.count()]
"""
    answer = reopen(tmp_path / "data", collection_name, code)

    assert answer == ["UserProvidedFunction()", "VectorsOnly", "VectorsOnly", ["moon"], 1]


# --- Text where vectors are made elsewhere -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["add", "upsert", "update"])
def test_text_without_a_vector_is_refused_and_nothing_is_stored(
    client: ClientAPI, collection_name: str, method: str
) -> None:
    collection = client.create_collection(collection_name, embedding_function=UserProvidedFunction())
    collection.add(ids=["old"], documents=["old"], embeddings=[[1.0, 2.0]])

    with pytest.raises(VectorsOnly, match="Pass `embeddings=` with the documents, one vector for each"):
        getattr(collection, method)(ids=["old" if method == "update" else "new"], documents=["new"])

    stored = collection.get(include=["documents", "embeddings"])
    assert (stored["ids"], stored["documents"]) == (["old"], ["old"])
    np.testing.assert_allclose(stored["embeddings"], [[1.0, 2.0]], rtol=1e-6)


def test_a_text_query_is_refused_and_a_vector_query_is_answered(client: ClientAPI, collection_name: str) -> None:
    collection = client.create_collection(collection_name, embedding_function=UserProvidedFunction())
    collection.add(ids=["a", "b"], documents=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]])

    with pytest.raises(VectorsOnly, match="Pass `query_embeddings=`, made by the model that made the stored vectors"):
        collection.query(query_texts=["a"])

    assert collection.query(query_embeddings=[[0.0, 2.0]], n_results=1)["ids"] == [["b"]]


def test_a_refused_first_text_leaves_the_width_open(client: ClientAPI, collection_name: str) -> None:
    collection = client.create_collection(collection_name, embedding_function=UserProvidedFunction())
    with pytest.raises(VectorsOnly, match="text came without one"):
        collection.add(ids=["a"], documents=["a"])

    collection.add(ids=["a"], embeddings=[[1.0, 2.0, 3.0]])

    assert client.get_collection(collection_name).get_model()["dimension"] == 3
