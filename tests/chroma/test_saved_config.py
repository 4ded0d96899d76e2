"""What is saved with a collection, what is refused, and what Chroma makes of a change."""

from __future__ import annotations

import inspect
import json
from typing import Any

import hypothesis.strategies as st
import jsonschema
import pytest
from chromadb.api import ClientAPI
from chromadb.utils.embedding_functions import known_embedding_functions
from chromadb.utils.embedding_functions.schemas import load_schema as load_schema_of_chroma
from hypothesis import given

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.errors import ConfigError
from chroma_mlx.functions.saved import validator

MACHINE = {
    "batch_size",
    "batch_tokens",
    "device",
    "own_process",
    "cache_dir",
    "auto_download",
    "max_cache_gb",
    "show_progress",
    "embedding_cache",
    "embedding_cache_gb",
    "batch_timeout_ms",
    "max_queue",
    "max_queue_tokens",
    "queue_policy",
}
VECTORS = {
    "model_name",
    "dimension",
    "pooling",
    "normalize",
    "max_tokens",
    "query_instruction",
    "document_instruction",
    "on_long_text",
}
CHANGES: dict[str, Any] = {
    "model_name": "qwen3-0.6b-8bit",
    "dimension": 128,
    "pooling": "mean",
    "normalize": False,
    "max_tokens": 100,
    "query_instruction": "query: ",
    "document_instruction": "passage: ",
}

texts = st.text(st.characters(codec="utf-8"))
counts = st.none() | st.integers(1, 2**40)
configs = st.fixed_dictionaries(
    {"model_name": texts.filter(str.strip).map("folder/".__add__) | st.just("builtin")},
    optional={
        "dimension": st.none() | st.integers(64, 256),
        "pooling": st.sampled_from(["last", "mean", "cls", None]),
        "normalize": st.booleans(),
        "max_tokens": counts,
        "query_instruction": st.none() | texts,
        "document_instruction": st.none() | texts,
        "on_long_text": st.sampled_from(["truncate", "error"]),
    },
)


@given(configs)
def test_a_config_survives_json_and_rebuilding(config: dict[str, Any]) -> None:
    MLXEmbeddingFunction.validate_config(config)
    function = MLXEmbeddingFunction(**config)

    saved = json.loads(json.dumps(function.get_config(), allow_nan=False))

    assert saved == {**MLXEmbeddingFunction().get_config(), **config}
    rebuilt = MLXEmbeddingFunction.build_from_config(saved)
    assert rebuilt == function
    assert hash(rebuilt) == hash(function)
    assert rebuilt.get_config() == saved


def test_the_saved_config_has_what_determines_vectors_and_nothing_of_the_machine(
    local_client: ClientAPI, name: str, tmp_path: Any
) -> None:
    function = MLXEmbeddingFunction(
        "builtin",
        dimension=128,
        batch_size=7,
        batch_tokens=777,
        device="cpu",
        cache_dir=tmp_path,
        auto_download=False,
        show_progress=False,
    )
    model = local_client.create_collection(name, embedding_function=function).get_model()

    saved = model.configuration_json["embedding_function"]["config"]
    assert saved == {**MLXEmbeddingFunction("builtin").get_config(), "dimension": 128}
    assert set(saved) == VECTORS
    everything = json.dumps([model.configuration_json, model.serialized_schema], allow_nan=False)
    assert not [key for key in MACHINE - {"batch_size"} if key in everything]  # Chroma's index has a batch_size
    assert str(tmp_path) not in everything
    assert "777" not in everything


def test_every_argument_belongs_to_the_vectors_or_to_the_machine() -> None:
    arguments = set(inspect.signature(MLXEmbeddingFunction).parameters)

    assert arguments == VECTORS | MACHINE | {"config"}
    assert set(MLXEmbeddingFunction().get_config()) == VECTORS
    assert set(validator("chroma_mlx").schema["properties"]) == VECTORS


def test_the_schema_is_draft_7_in_the_form_of_chromas_own() -> None:
    schema = validator("chroma_mlx").schema
    theirs = load_schema_of_chroma("sentence_transformer")

    jsonschema.Draft7Validator.check_schema(schema)
    assert set(theirs) <= set(schema)
    for key in ("$schema", "type", "additionalProperties"):
        assert schema[key] == theirs[key]
    assert schema["additionalProperties"] is False
    assert schema["version"].count(".") == 2
    assert all(field["description"] for field in schema["properties"].values())


def test_it_is_registered_under_its_name_and_is_not_legacy() -> None:
    assert known_embedding_functions["chroma_mlx"] is MLXEmbeddingFunction
    assert MLXEmbeddingFunction.name() == "chroma_mlx"
    assert MLXEmbeddingFunction().is_legacy() is False
    assert MLXEmbeddingFunction().default_space() in MLXEmbeddingFunction().supported_spaces()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", ""),
        ("model_name", " "),
        ("model_name", None),
        ("dimension", 0),
        ("dimension", 1.5),
        ("dimension", 300),
        ("dimension", True),
        ("pooling", "max"),
        ("normalize", 1),
        ("max_tokens", -1),
        ("max_tokens", "512"),
        ("query_instruction", 3),
        ("document_instruction", ["passage: "]),
        ("on_long_text", None),
    ],
)
def test_a_bad_field_is_refused_by_name(field: str, value: object) -> None:
    config = {"model_name": "builtin", field: value}

    with pytest.raises(ConfigError, match=field):
        MLXEmbeddingFunction.validate_config(config)
    with pytest.raises(ConfigError, match=field):
        MLXEmbeddingFunction.build_from_config(config)
    with pytest.raises(ConfigError, match=field):
        MLXEmbeddingFunction(**config)  # type: ignore[arg-type]


def test_a_config_is_refused_with_every_problem_at_once() -> None:
    config = {"model_name": "builtin", "pooling": "max", "max_tokens": 0, "cache_dir": "/models"}

    with pytest.raises(ConfigError, match="not valid") as caught:
        MLXEmbeddingFunction.validate_config(config)

    assert all(field in str(caught.value) for field in ("pooling", "max_tokens", "cache_dir"))


def test_a_config_without_a_model_is_not_valid() -> None:
    with pytest.raises(ConfigError, match="'model_name' is a required property"):
        MLXEmbeddingFunction.validate_config({})


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_that_makes_other_vectors_is_refused_by_name(field: str) -> None:
    old = MLXEmbeddingFunction("builtin").get_config()
    new = {**old, field: CHANGES[field]}

    with pytest.raises(ConfigError, match=f"{field} from .*vectors that do not match"):
        MLXEmbeddingFunction().validate_config_update(old, new)


def test_the_same_settings_and_another_answer_to_long_texts_are_no_change() -> None:
    old = MLXEmbeddingFunction("builtin").get_config()
    new = {**old, "on_long_text": "error"}

    assert MLXEmbeddingFunction().validate_config_update(old, dict(old)) is None
    assert MLXEmbeddingFunction().validate_config_update(old, new) is None


def test_modify_takes_what_keeps_the_vectors(client: ClientAPI, name: str) -> None:
    collection = client.create_collection(name, embedding_function=MLXEmbeddingFunction("builtin"))

    collection.modify(configuration={"embedding_function": MLXEmbeddingFunction("builtin")})
    strict = MLXEmbeddingFunction("builtin", on_long_text="error")
    collection.modify(configuration={"embedding_function": strict})

    assert collection.configuration["embedding_function"] == strict
    assert client.get_collection(name).configuration["embedding_function"] == strict


def test_modify_refuses_other_vectors_and_the_old_settings_restore_the_collection(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = client.create_collection(name, embedding_function=function)
    collection.add(ids=["a"], documents=["The Moon orbits the Earth."])

    with pytest.raises(ConfigError, match=r"dimension from None to 128 .* call modify again with the old settings"):
        collection.modify(configuration={"embedding_function": MLXEmbeddingFunction("builtin", dimension=128)})
    # Chroma asks only once it has stored the new settings; those of this handle are still the old ones.
    assert collection.configuration["embedding_function"] == function
    collection.modify(configuration={"embedding_function": function})

    assert client.get_collection(name).configuration["embedding_function"] == function
    assert client.get_collection(name).query(query_texts=["moon"], n_results=1)["ids"] == [["a"]]


def test_two_handles_of_a_collection_are_equal_when_their_functions_are(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    client.create_collection(name, embedding_function=function)
    other = MLXEmbeddingFunction("builtin", dimension=128)

    handle = client.get_collection(name, embedding_function=function)

    assert handle == client.get_collection(name, embedding_function=MLXEmbeddingFunction("builtin", batch_size=1))
    assert handle != client.get_collection(name, embedding_function=other)


def test_functions_are_equal_by_what_determines_their_vectors() -> None:
    function = MLXEmbeddingFunction("builtin", batch_size=4, device="cpu")

    assert function == MLXEmbeddingFunction("builtin")
    assert hash(function) == hash(MLXEmbeddingFunction("builtin"))
    assert all(function != MLXEmbeddingFunction(**{"model_name": "builtin", **{k: v}}) for k, v in CHANGES.items())
    assert function != "builtin"
    assert repr(function) == (
        "MLXEmbeddingFunction(model_name='builtin', normalize=True, on_long_text='truncate', device='cpu')"
    )


@pytest.mark.parametrize("config", [None, [], "x", {"x": 1}, {1: 2}], ids=str)
def test_what_is_no_configuration_is_refused_wherever_one_is_taken(config: Any) -> None:
    function = MLXEmbeddingFunction("builtin")
    for take in (
        MLXEmbeddingFunction.build_from_config,
        MLXEmbeddingFunction.validate_config,
        lambda wrong: function.validate_config_update(wrong, function.get_config()),
        lambda wrong: function.validate_config_update(function.get_config(), wrong),
    ):
        with pytest.raises(ConfigError, match="is not valid"):
            take(config)
