"""A pytest plugin, loaded only over Chroma's own tests, that puts this package's function into them.

Chroma's tests draw a collection and a function that hashes texts, of a random width. Here the function is
the built-in model, of that width where the model has it. Which of the tests called it, and how often, is
written to the file that CALLS names.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections import Counter
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import chroma_mlx
from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.engine.encoder import Encoder

CALLS = "OWN_SUITE_CALLS"
# As a folder: under its short name the model has a smallest width, which Chroma's tests go below.
MODEL = str(resources.files(chroma_mlx).joinpath("builtin").joinpath("checkpoint"))
WIDTH = 256
EXAMPLES, STEPS = 5, 8

# Chroma's conftest imports its older server, written in Python, which needs FastAPI; no test here starts it.
sys.modules["chromadb.server.fastapi"] = ModuleType("chromadb.server.fastapi")
conftest = importlib.import_module("chromadb.test.conftest")
strategies = importlib.import_module("chromadb.test.property.strategies")

_texts: Counter[str] = Counter()
_running = ""


def make_function(dim: int, dtype: Any) -> MLXEmbeddingFunction:
    """A function of `dim` dimensions, as far as the model has them.

    One text a forward pass, since Chroma compares vectors of one text from two calls to 1e-8.
    """
    return MLXEmbeddingFunction(MODEL, dimension=min(dim, WIDTH), batch_size=1, show_progress=False)


def embedding_function_strategy(dim: int, dtype: Any) -> st.SearchStrategy[MLXEmbeddingFunction]:
    return st.just(make_function(dim, dtype))


_collections = strategies.collections


def collections(*args: Any, **kwargs: Any) -> st.SearchStrategy[Any]:
    """Chroma's own, no wider than the model, and of texts alone unless the test wants vectors."""
    if kwargs.get("has_embeddings") is None and kwargs.get("has_documents") is not False:
        kwargs.update(has_embeddings=False, has_documents=True)
    return _collections(*args, **kwargs).map(
        lambda drawn: dataclasses.replace(drawn, dimension=min(drawn.dimension, WIDTH))
    )


_encode = Encoder.encode


def counted(self: Encoder, texts: Any, kind: Any, **others: Any) -> Any:
    vectors = _encode(self, texts, kind, **others)
    _texts[_running] += len(texts)
    return vectors


def override_hypothesis_profile(**presets: hypothesis.settings | None) -> hypothesis.settings:
    """Chroma's presets draw for many minutes."""
    return hypothesis.settings(hypothesis.settings.default, max_examples=EXAMPLES, stateful_step_count=STEPS)


# Before Chroma's test modules are imported, since they build their strategies at import.
strategies.collections = collections
strategies.embedding_function_strategy = embedding_function_strategy
strategies.hashing_embedding_function = make_function
Encoder.encode = counted  # type: ignore[method-assign]
conftest.override_hypothesis_profile = override_hypothesis_profile
hypothesis.settings.register_profile("own_suite", override_hypothesis_profile())
hypothesis.settings.load_profile("own_suite")


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _running
    _running = item.nodeid


def pytest_sessionfinish() -> None:
    Path(os.environ[CALLS]).write_text(json.dumps(_texts), encoding="utf-8")
