"""Opening a collection: made right, refused with a way out where the vectors would not compare, rebuilt by Chroma."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from chromadb import Schema
from chromadb.api import ClientAPI
from chromadb.api.types import VectorIndexConfig
from chromadb.errors import NotFoundError
from small import make_tensors, write_checkpoint

from chroma_mlx import EmbeddingRouter, MLXEmbeddingFunction, MockEmbeddingFunction, UserProvidedFunction
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.errors import (
    CollectionMismatch,
    ConfigError,
    DimensionMismatch,
    ModelNotFound,
    UncheckedSpace,
    VectorsOnly,
)

KEY = "chroma_mlx:fingerprint"
MODES: dict[str, dict[str, Any]] = {
    "mlx": {"mode": "mlx", "model_name": "builtin"},
    "mock": {"mode": "mock", "model_name": "builtin"},
    "user_provided": {"mode": "user_provided", "model_name": "builtin"},
}


def fail(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the model was called")


def vector(width: int = 256) -> list[float]:
    return [1.0] + [0.0] * (width - 1)


def stored_fingerprint(client: ClientAPI, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((client.get_collection(name).metadata or {})[KEY])
    return found


def write_model(folder: Path, *, seed: float = 0.0) -> Path:
    """A small checkpoint; another seed gives other weights of the same shapes."""
    tensors = {name: tensor * np.float32(1 + seed) for name, tensor in make_tensors().items()}
    return write_checkpoint(folder, tensors=tensors)


@pytest.mark.parametrize(("made", "opened"), itertools.permutations(MODES, 2))
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_a_collection_of_another_mode_is_refused_with_the_way_out(
    client: ClientAPI, name: str, made: str, opened: str, filled: bool
) -> None:
    first, second = EmbeddingRouter(**MODES[made]), EmbeddingRouter(**MODES[opened])
    collection = first.collection(client, name)
    if filled:
        collection.upsert([{"id": "a", "vector": vector()}])

    with pytest.raises(CollectionMismatch, match=f"made in mode '{made}', and this router is in mode '{opened}'") as no:
        second.collection(client, name)

    assert f"`router.with_mode('{made}')`" in str(no.value)
    assert "`same_space=True`" in str(no.value)
    assert no.value.differences == {"mode": (made, opened)}
    assert second.with_mode(made).collection(client, name).count() == int(filled)  # type: ignore[arg-type]


@pytest.mark.parametrize(("made", "opened"), itertools.permutations(MODES, 2))
def test_same_space_opens_a_collection_of_another_mode(client: ClientAPI, name: str, made: str, opened: str) -> None:
    EmbeddingRouter(**MODES[made]).collection(client, name).upsert([{"id": "a", "vector": vector()}])

    collection = EmbeddingRouter(**MODES[opened]).collection(client, name, same_space=True)
    collection.upsert([{"id": "b", "vector": vector()}])

    assert sorted(collection.query(vector=vector()).ids) == ["a", "b"]
    if opened != "user_provided":
        with pytest.warns(UncheckedSpace, match="no stored record has a text to hold that to"):
            assert collection.upsert([{"id": "c", "text": "moon"}]).embedded == 1
        assert "c" in collection.query("moon").ids


def test_vectors_of_a_space_that_is_not_the_same_are_found_by_their_texts(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(**MODES["mlx"]).collection(client, name).upsert([{"id": "a", "text": "moon"}])

    collection = EmbeddingRouter(**MODES["mock"]).collection(client, name, same_space=True)

    for call in (lambda: collection.upsert([{"id": "b", "text": "sun"}]), lambda: collection.query("moon")):
        with pytest.raises(CollectionMismatch, match=r"have a cosine of .* with the stored vectors.*are not the same"):
            call()
    assert collection.count() == 1
    assert collection.query(vector=vector()).ids == ["a"]


def test_a_collection_of_chromas_default_model_goes_on_with_the_same_model(client: ClientAPI, name: str) -> None:
    """Chroma's own function is stored by its name; here the built-in model stands for its vectors."""
    router = EmbeddingRouter(**MODES["mlx"])
    collection = client.create_collection(name)
    collection.add(ids=["a", "b"], documents=["moon", "sun"], embeddings=router.embed(["moon", "sun"]))
    with pytest.raises(CollectionMismatch, match="made with the embedding function 'default'"):
        router.collection(client, name)

    opened = router.collection(client, name, same_space=True)

    assert opened.upsert([{"id": "c", "text": "star"}]).embedded == 1
    assert opened.query("moon")[0].id == "a"


OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "dimension": {"dimension": 128},
    "pooling": {"pooling": "cls"},
    "query_instruction": {"query_instruction": "Find the planet: "},
    "document_instruction": {"document_instruction": "A planet: "},
    "normalize": {"normalize": False},
    "max_tokens": {"max_tokens": 32},
}


@pytest.mark.parametrize("field", OTHER_SETTINGS)
@pytest.mark.parametrize("by", ["router", "plain function"])
def test_other_settings_are_refused_by_name(client: ClientAPI, name: str, by: str, field: str) -> None:
    made = EmbeddingRouter(model_name="builtin")
    if by == "router":
        made.collection(client, name).upsert([{"id": "a", "text": "moon"}])
    else:
        client.create_collection(name, embedding_function=made.embedding_function).add(ids=["a"], documents=["moon"])

    with pytest.raises(CollectionMismatch, match=f"made in another way: {field} was .* and is .*same_space") as caught:
        EmbeddingRouter(model_name="builtin", **OTHER_SETTINGS[field]).collection(client, name)

    assert list(caught.value.differences) == [field]
    assert caught.value.differences[field][1] == OTHER_SETTINGS[field][field]


@pytest.mark.parametrize("field", ["query_instruction", "max_tokens", "normalize"])
def test_same_space_opens_a_collection_of_other_settings(client: ClientAPI, name: str, field: str) -> None:
    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([{"id": "a", "text": "moon"}])

    other = EmbeddingRouter(model_name="builtin", **OTHER_SETTINGS[field])
    collection = other.collection(client, name, same_space=True)

    assert collection.upsert([{"id": "b", "text": "sun"}]).inserted == 1
    assert collection.query("moon", n_results=1).ids == ["a"]


def test_same_space_does_not_open_a_collection_of_another_width(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([{"id": "a", "text": "moon"}])

    with pytest.raises(DimensionMismatch, match="stores 256-d vectors, but this configuration makes 128-d") as caught:
        EmbeddingRouter(model_name="builtin", dimension=128).collection(client, name, same_space=True)

    assert (caught.value.expected, caught.value.got) == (256, 128)


@pytest.mark.parametrize("setting", ["on_long_text", "batch_size", "show_progress"])
def test_settings_that_change_no_vector_may_change(client: ClientAPI, name: str, setting: str) -> None:
    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([{"id": "a", "text": "moon"}])
    other = {"on_long_text": "error", "batch_size": 1, "show_progress": False}[setting]

    collection = EmbeddingRouter(model_name="builtin", **{setting: other}).collection(client, name)

    assert collection.query("moon").ids == ["a"]


def test_a_setting_that_says_what_the_model_declares_is_no_difference(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([{"id": "a", "text": "moon"}])

    collection = EmbeddingRouter(model_name="builtin", dimension=256, max_tokens=256).collection(client, name)

    assert collection.query("moon").ids == ["a"]


def test_another_width_in_mode_mock_is_refused(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(mode="mock", dimension=8).collection(client, name).upsert([{"id": "a", "text": "moon"}])

    with pytest.raises(CollectionMismatch, match="dimension was 8 and is 16"):
        EmbeddingRouter(mode="mock", dimension=16).collection(client, name)
    with pytest.raises(DimensionMismatch, match="stores 8-d vectors, but this configuration makes 16-d"):
        EmbeddingRouter(mode="mock", dimension=16).collection(client, name, same_space=True)


def test_another_width_in_mode_user_provided_is_refused_when_opening_and_when_it_appears(
    client: ClientAPI, name: str
) -> None:
    wide = EmbeddingRouter(mode="user_provided", dimension=8)
    early = wide.collection(client, name)
    EmbeddingRouter(mode="user_provided").collection(client, name).upsert([{"id": "a", "vector": vector(4)}])

    with pytest.raises(DimensionMismatch, match=r"stores 4-d vectors, but .* 8-d ones.*Set `dimension: 4`"):
        wide.collection(client, name)
    with pytest.raises(DimensionMismatch, match=r"stores 4-d vectors, but .* 8-d ones.*Nothing was written"):
        early.upsert([{"id": "b", "vector": vector(8)}])

    assert early.count() == 1


def test_a_collection_of_another_width_is_refused_before_any_model_runs(
    client: ClientAPI, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_collection(name, embedding_function=MLXEmbeddingFunction("builtin")).add(
        ids=["a"], embeddings=[vector(128)]
    )
    monkeypatch.setattr(Encoder, "embed", fail)
    monkeypatch.setattr(Encoder, "load", fail)

    with pytest.raises(DimensionMismatch, match="stores 128-d vectors, but this configuration makes 256-d"):
        EmbeddingRouter(model_name="builtin").collection(client, name)

    assert client.get_collection(name).count() == 1


def test_other_weights_in_the_same_folder_are_refused(client: ClientAPI, name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    EmbeddingRouter(model_name=str(folder)).collection(client, name)
    write_model(folder, seed=1.0)

    with pytest.raises(CollectionMismatch, match=r"weights was '.*' and is '") as caught:
        EmbeddingRouter(model_name=str(folder)).collection(client, name)

    assert list(caught.value.differences) == ["weights"]


def test_weights_that_changed_under_an_open_collection_are_found_at_the_first_text(
    client: ClientAPI, name: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    collection = EmbeddingRouter(model_name=str(folder)).collection(client, name)
    write_model(folder, seed=1.0)

    with pytest.raises(CollectionMismatch, match=r"weights was '.*' and is '"):
        collection.query("moon")
    with pytest.raises(CollectionMismatch, match=r"weights was '.*' and is '"):
        collection.upsert([{"id": "a", "text": "moon"}])

    assert collection.count() == 0


def test_other_weights_under_the_same_name_in_another_folder_are_refused(
    client: ClientAPI, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "one" / "model")
    write_model(tmp_path / "two" / "model", seed=1.0)
    monkeypatch.chdir(tmp_path / "one")
    EmbeddingRouter(model_name="./model").collection(client, name).upsert([{"id": "a", "text": "moon"}])
    monkeypatch.chdir(tmp_path / "two")

    with pytest.raises(CollectionMismatch, match=r"weights was '.*' and is '") as caught:
        EmbeddingRouter(model_name="./model").collection(client, name)

    assert list(caught.value.differences) == ["weights"]
    opened = EmbeddingRouter(model_name="./model").collection(client, name, same_space=True)
    with pytest.raises(CollectionMismatch, match="the spaces are not the same"):
        opened.upsert([{"id": "b", "text": "moon"}])


def test_the_same_weights_from_another_path_open_the_collection(client: ClientAPI, name: str, tmp_path: Path) -> None:
    first = write_model(tmp_path / "model")
    EmbeddingRouter(model_name=str(first)).collection(client, name).upsert([{"id": "a", "text": "moon"}])
    second = shutil.copytree(first, tmp_path / "copy")

    collection = EmbeddingRouter(model_name=str(second)).collection(client, name)

    assert collection.upsert([{"id": "b", "text": "sun"}]).inserted == 1
    assert len(collection.query("moon")) == 2
    assert stored_fingerprint(client, name)["model"] == str(first)


def test_a_collection_of_the_plain_function_is_adopted_at_the_first_text(client: ClientAPI, name: str) -> None:
    plain = client.create_collection(
        name, embedding_function=MLXEmbeddingFunction("builtin"), metadata={"topic": "space", "n": 1}
    )
    plain.add(ids=["a"], documents=["moon"])
    collection = EmbeddingRouter(model_name="builtin").collection(client, name)

    assert collection.query("moon").ids == ["a"]
    collection.upsert([{"id": "v", "vector": vector()}])
    assert KEY not in client.get_collection(name).metadata
    collection.upsert([{"id": "b", "text": "sun"}])

    metadata = dict(client.get_collection(name).metadata)
    fingerprint = json.loads(metadata.pop(KEY))
    assert metadata == {"topic": "space", "n": 1}
    assert (fingerprint["model"], fingerprint["dimension"], fingerprint["normalize"]) == ("builtin", 256, True)
    assert sorted(client.get_collection(name).get()["ids"]) == ["a", "b", "v"]


def test_the_fingerprint_is_stored_when_the_collection_is_made(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(model_name="builtin").collection(client, name, metadata={"topic": "space"})

    assert client.get_collection(name).metadata["topic"] == "space"
    assert stored_fingerprint(client, name)["weights"]


@pytest.mark.parametrize("metadata", [{"topic": "stars"}, {}])
def test_the_fingerprint_survives_new_metadata(client: ClientAPI, name: str, metadata: dict[str, Any]) -> None:
    collection = EmbeddingRouter(model_name="builtin").collection(client, name, metadata={"topic": "space"})
    before = stored_fingerprint(client, name)

    collection.modify(metadata=metadata)

    assert stored_fingerprint(client, name) == before
    assert {key: value for key, value in client.get_collection(name).metadata.items() if key != KEY} == metadata


def test_a_collection_keeps_working_under_a_new_name(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(model_name="builtin").collection(client, name)

    collection.modify(name=f"{name}-new")

    assert collection.name == f"{name}-new"
    assert collection.upsert([{"id": "a", "text": "moon"}]).inserted == 1
    assert collection.query("moon").ids == ["a"]


def test_a_space_in_the_metadata_is_taken_and_the_fingerprint_stored(client: ClientAPI, name: str) -> None:
    router = EmbeddingRouter(model_name="builtin")

    made = router.collection(client, name, metadata={"hnsw:space": "ip"})
    made.upsert([{"id": "a", "text": "moon"}])

    assert client.get_collection(name).configuration_json["hnsw"]["space"] == "ip"
    assert stored_fingerprint(client, name)["model"] == "builtin"
    assert router.collection(client, name).query("moon", n_results=1)[0].similarity is not None


def test_a_space_in_the_metadata_of_a_plain_collection_does_not_stop_the_adoption(client: ClientAPI, name: str) -> None:
    client.create_collection(
        name, embedding_function=MLXEmbeddingFunction("builtin"), metadata={"hnsw:space": "ip", "topic": "space"}
    )

    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([{"id": "a", "text": "moon"}])

    assert stored_fingerprint(client, name)["model"] == "builtin"
    assert client.get_collection(name).metadata["topic"] == "space"
    assert client.get_collection(name).configuration_json["hnsw"]["space"] == "ip"


@pytest.mark.parametrize(
    "arguments",
    [
        {"embedding_function": MockEmbeddingFunction(8)},
        {"embedding_function": None},
        {"configuration": {"embedding_function": MockEmbeddingFunction(8)}},
    ],
)
def test_an_embedding_function_is_refused(client: ClientAPI, name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="embedding_function was passed, but the router gives the collection its own"):
        EmbeddingRouter(mode="mock", dimension=8).collection(client, name, **arguments)

    with pytest.raises(NotFoundError, match=name):
        client.get_collection(name)


def test_an_unknown_argument_is_refused_with_the_known_ones(client: ClientAPI, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no argument 'metadatas'\. It has .*metadata"):
        EmbeddingRouter(mode="mock", dimension=8).collection(client, name, metadatas={"a": 1})

    with pytest.raises(NotFoundError, match=name):
        client.get_collection(name)


def test_one_configuration_makes_many_collections(client: ClientAPI, name: str, mock: EmbeddingRouter) -> None:
    configuration: dict[str, Any] = {"hnsw": {"space": "l2"}}

    for number in range(2):
        collection = mock.collection(client, f"{name}-{number}", configuration=configuration)
        assert collection.configuration_json["hnsw"]["space"] == "l2"

    assert configuration == {"hnsw": {"space": "l2"}}


@pytest.mark.parametrize("space", [None, "l2", "ip"])
@pytest.mark.parametrize("mode", MODES)
def test_a_schema_keeps_its_space_and_gets_the_function(client: ClientAPI, name: str, mode: str, space: Any) -> None:
    schema = Schema()
    if space is not None:
        schema.create_index(config=VectorIndexConfig(space=space))
    router = EmbeddingRouter(**MODES[mode])

    collection = router.collection(client, name, schema=schema)
    collection.upsert([{"id": "a", "text": "moon", "vector": vector()}])

    again = router.collection(client, name)
    assert again.query(vector=vector()).ids == ["a"]
    configuration = client.get_collection(name).configuration_json
    assert configuration["hnsw"]["space"] == (space or "cosine")
    assert configuration["embedding_function"]["name"] == router.embedding_function.name()


def test_create_false_asks_for_a_collection_that_is_there(client: ClientAPI, name: str, mock: EmbeddingRouter) -> None:
    with pytest.raises(NotFoundError, match=name):
        mock.collection(client, name, create=False)

    mock.collection(client, name).upsert([{"id": "a", "text": "moon"}])

    assert mock.collection(client, name, create=False).count() == 1


def test_get_or_create_false_asks_for_a_collection_that_is_not_there(
    client: ClientAPI, name: str, mock: EmbeddingRouter
) -> None:
    assert mock.collection(client, name, get_or_create=False).count() == 0

    with pytest.raises(ConfigError, match=f"'{name}' exists, and get_or_create=False asks for a new one"):
        mock.collection(client, name, get_or_create=False)


def test_a_collection_of_the_default_function_is_refused(client: ClientAPI, name: str) -> None:
    client.create_collection(name).add(ids=["a"], embeddings=[vector(8)])

    with pytest.raises(CollectionMismatch, match=r"made with the embedding function 'default'.*another name") as caught:
        EmbeddingRouter(mode="mock", dimension=8).collection(client, name)

    assert caught.value.differences == {"mode": ("default", "mock")}
    opened = EmbeddingRouter(mode="mock", dimension=8).collection(client, name, same_space=True)
    assert opened.query(vector=vector(8)).ids == ["a"]


def test_a_collection_without_a_function_is_refused(client: ClientAPI, name: str) -> None:
    client.create_collection(name, embedding_function=None).add(ids=["a"], embeddings=[vector(8)])

    with pytest.raises(CollectionMismatch, match=f"'{name}' was made .*, and this router is in mode 'mock'"):
        EmbeddingRouter(mode="mock", dimension=8).collection(client, name)


def test_a_model_that_does_not_exist_makes_no_collection(client: ClientAPI, name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        EmbeddingRouter(model_name=str(tmp_path / "nowhere")).collection(client, name)

    with pytest.raises(NotFoundError, match=name):
        client.get_collection(name)


def test_chroma_rebuilds_the_function_of_mode_mlx(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(model_name="builtin").collection(client, name).upsert([{"id": "a", "text": "the moon"}])

    plain = client.get_collection(name)
    plain.add(ids=["b"], documents=["the moon"])

    assert plain.configuration["embedding_function"] == MLXEmbeddingFunction("builtin")
    stored = np.array(plain.get(["a", "b"], include=["embeddings"])["embeddings"])
    np.testing.assert_allclose(stored[0], stored[1], atol=1e-5)


def test_chroma_rebuilds_the_function_of_mode_mock(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(mode="mock", dimension=8).collection(client, name).upsert([{"id": "a", "text": "the moon"}])

    plain = client.get_collection(name)
    plain.add(ids=["b"], documents=["the moon"])

    assert plain.configuration["embedding_function"] == MockEmbeddingFunction(8)
    stored = np.array(plain.get(["a", "b"], include=["embeddings"])["embeddings"])
    np.testing.assert_array_equal(stored[0], stored[1])


def test_chroma_rebuilds_the_function_of_mode_user_provided_which_refuses_text(client: ClientAPI, name: str) -> None:
    EmbeddingRouter(mode="user_provided").collection(client, name).upsert([{"id": "a", "vector": vector(8)}])

    plain = client.get_collection(name)

    assert plain.configuration["embedding_function"] == UserProvidedFunction()
    with pytest.raises(VectorsOnly, match="text came without one"):
        plain.add(ids=["b"], documents=["the moon"])
    with pytest.raises(VectorsOnly, match="the query is text"):
        plain.query(query_texts=["the moon"])
    assert plain.count() == 1


def test_a_collection_made_anew_under_its_name_is_not_taken_for_the_old_one(
    client: ClientAPI, name: str, mock: EmbeddingRouter
) -> None:
    old = mock.collection(client, name)
    client.delete_collection(name)
    EmbeddingRouter(mode="user_provided").collection(client, name).upsert([{"id": "a", "vector": vector(4)}])

    with pytest.raises(NotFoundError, match="does not exist"):
        old.upsert([{"id": "b", "text": "moon"}])

    assert client.get_collection(name).count() == 1


def test_the_rest_of_a_collection_is_chromas_own(client: ClientAPI, name: str, mock: EmbeddingRouter) -> None:
    collection = mock.collection(client, name)
    collection.upsert([{"id": "a", "text": "moon"}, {"id": "b", "text": "sun"}])

    collection.delete(["a"])

    assert collection.peek()["ids"] == collection.chroma.get()["ids"] == ["b"]
    assert repr(collection) == f"RoutedCollection(name='{name}', function=MockEmbeddingFunction(dimension=8))"
    with pytest.raises(AttributeError, match="no attribute 'nothing_such'"):
        collection.nothing_such()
