"""What made a collection's vectors: when it is stored, and what counts as a difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chromadb.api import ClientAPI
from small import CONFIG, make_tensors, write_checkpoint

from chroma_mlx import EmbeddingRouter, MLXEmbeddingFunction
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
from chroma_mlx.errors import CollectionMismatch, RecordError
from chroma_mlx.router.matching import FINGERPRINT_KEY

TEXT = {"id": "a", "text": "The Moon orbits the Earth."}


def stored(client: ClientAPI, name: str) -> dict[str, Any] | None:
    text = (client.get_collection(name).metadata or {}).get(FINGERPRINT_KEY)
    return None if text is None else json.loads(str(text))


def made_by_a_function(client: ClientAPI, name: str, *arguments: Any, **settings: Any) -> None:
    """A collection without a fingerprint, with a record."""
    function: Any = MLXEmbeddingFunction(*arguments, **settings)
    client.create_collection(name, embedding_function=function).add(ids=["z"], documents=["The Sun is a star."])


def test_it_says_all_that_made_the_vectors(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(model_name="builtin", dimension=128, query_instruction="find: ").collection(client, name)

    found = stored(client, name)
    assert found is not None
    assert found.pop("weights") != ""
    assert found == {
        "model": "builtin",
        "quantization": "8-bit affine, groups of 64",
        "pooling": "mean",
        "dimension": 128,
        "normalize": True,
        "max_tokens": 256,
        "query_instruction": "find: ",
        "document_instruction": "",
    }


def test_a_call_that_is_refused_while_embedding_signs_nothing(client: ClientAPI, name: str) -> None:
    made_by_a_function(client, name, "builtin", max_tokens=8)
    strict = EmbeddingRouter(model_name="builtin", max_tokens=8, on_long_text="error").collection(client, name)

    with pytest.raises(RecordError, match=r"has 29 tokens.*Nothing was written"):
        strict.upsert([{"id": "b", "text": "moon " * 28}])
    assert stored(client, name) is None

    strict.upsert([TEXT])
    signed = stored(client, name)
    assert signed is not None
    assert signed["max_tokens"] == 8


def test_a_guest_of_the_same_space_does_not_sign_for_the_host(client: ClientAPI, name: str) -> None:
    made_by_a_function(client, name, "builtin")
    guest = EmbeddingRouter(model_name="builtin", query_instruction="find: ")
    guest.collection(client, name, same_space=True).upsert([TEXT])

    assert stored(client, name) is None
    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([TEXT])
    assert stored(client, name) is not None


def test_new_metadata_by_an_older_handle_keep_a_fingerprint_stored_since(client: ClientAPI, name: str) -> None:
    made_by_a_function(client, name, "builtin")
    router = EmbeddingRouter(model_name="builtin")
    older, newer = router.collection(client, name), router.collection(client, name)
    newer.upsert([TEXT])

    older.modify(metadata={"topic": "sky"})

    assert stored(client, name) is not None
    assert client.get_collection(name).metadata["topic"] == "sky"


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "mean"},
        {"dimension": 256},
        {"max_tokens": 256},
        {"query_instruction": "", "document_instruction": ""},
        {"model_name": str(BUILTIN_FOLDER)},
        {"on_long_text": "error"},
    ],
    ids=str,
)
def test_settings_that_mean_the_same_are_no_difference(client: ClientAPI, name: str, settings: dict[str, Any]) -> None:
    made_by_a_function(client, name, "builtin")

    opened = EmbeddingRouter(**{"model_name": "builtin", **settings}).collection(client, name)

    assert opened.query("sun")[0].id == "z"


def test_another_configuration_of_the_same_weights_is_another_model(
    client: ClientAPI, name: str, tmp_path: Path
) -> None:
    tensors = make_tensors()
    one = write_checkpoint(tmp_path / "one", tensors=tensors)
    other = write_checkpoint(tmp_path / "other", tensors=tensors, config={**CONFIG, "rope_theta": 500_000.0})
    EmbeddingRouter(model_name=str(one)).collection(client, name).upsert([TEXT])

    with pytest.raises(CollectionMismatch, match=r"weights was '[0-9a-f]{16}' and is '[0-9a-f]{16}'"):
        EmbeddingRouter(model_name=str(other)).collection(client, name)


def test_who_saved_a_checkpoint_last_is_no_difference(client: ClientAPI, name: str, tmp_path: Path) -> None:
    tensors = make_tensors()
    one = write_checkpoint(tmp_path / "one", tensors=tensors)
    other = write_checkpoint(tmp_path / "other", tensors=tensors, config={**CONFIG, "transformers_version": "9"})
    EmbeddingRouter(model_name=str(one)).collection(client, name).upsert([TEXT])

    assert EmbeddingRouter(model_name=str(other)).collection(client, name).query("moon")[0].id == "a"


def test_a_model_that_is_not_on_this_disk_is_compared_by_what_its_settings_say(client: ClientAPI, name: str) -> None:
    absent = {"model_name": "qwen3-0.6b-4bit", "auto_download": False}
    EmbeddingRouter(**absent).collection(client, name)

    repo_id = "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"
    EmbeddingRouter(model_name=repo_id, auto_download=False, dimension=1024, pooling="last").collection(client, name)
    with pytest.raises(CollectionMismatch, match=r"dimension was 1024 and is 512"):
        EmbeddingRouter(**absent, dimension=512).collection(client, name)
    with pytest.raises(CollectionMismatch, match=r"model_name was 'qwen3-0.6b-4bit' and is 'qwen3-0.6b-8bit'"):
        EmbeddingRouter(model_name="qwen3-0.6b-8bit", auto_download=False).collection(client, name)


@pytest.mark.parametrize("damaged", ["{broken", '{"a": 1}', "5", 5])
def test_a_damaged_fingerprint_is_refused_unless_the_user_knows(client: ClientAPI, name: str, damaged: Any) -> None:
    function: Any = MLXEmbeddingFunction("builtin")
    client.create_collection(name, embedding_function=function, metadata={FINGERPRINT_KEY: damaged})
    router = EmbeddingRouter(model_name="builtin")

    with pytest.raises(CollectionMismatch, match="has a damaged fingerprint"):
        router.collection(client, name)
    assert router.collection(client, name, same_space=True).upsert([TEXT]).inserted == 1


def test_a_collection_renamed_under_its_wrapper_keeps_its_own_metadata(client: ClientAPI, name: str) -> None:
    function: Any = MLXEmbeddingFunction("builtin")
    client.create_collection(name, embedding_function=function, metadata={"who": "old"})
    router = EmbeddingRouter(model_name="builtin")
    wrapper = router.collection(client, name)
    client.get_collection(name).modify(name=f"{name}-old")
    client.create_collection(name, embedding_function=function, metadata={"who": "new"})

    assert wrapper.upsert([TEXT]).inserted == 1

    assert client.get_collection(f"{name}-old").metadata["who"] == "old"
    assert (client.get_collection(f"{name}-old").count(), client.get_collection(name).count()) == (1, 0)
    assert wrapper.query("moon").ids == ["a"]


def test_vectors_of_ones_own_go_into_a_collection_that_has_no_function(client: ClientAPI, name: str) -> None:
    client.create_collection(name, embedding_function=None).add(ids=["z"], embeddings=[[1.0, 0.0]])
    router = EmbeddingRouter(mode="user_provided")

    assert router.collection(client, name).upsert([{"id": "a", "vector": [0.0, 1.0]}]).inserted == 1
    with pytest.raises(CollectionMismatch, match="made with the embedding function 'none'"):
        router.with_mode("mock").collection(client, name)
