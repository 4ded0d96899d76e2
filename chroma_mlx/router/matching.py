"""Whether a collection's vectors and a router's compare: the mode, and everything that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..errors import CollectionMismatch
from .embedders import Embedder

if TYPE_CHECKING:
    from ..engine.fingerprint import Fingerprint

FINGERPRINT_KEY: Final = "chroma_mlx:fingerprint"
NO_FUNCTION: Final = "none"
# Chroma's own default, by the names of its two classes, and the one model of the table that has its space.
CHROMAS_DEFAULT: Final = frozenset({"default", "onnx_mini_lm_l6_v2"})
MODEL_OF_DEFAULT: Final = "all-minilm-l6-v2"
MODES: Final = {"chroma_mlx": "mlx", "chroma_mlx_mock": "mock", "chroma_mlx_user_provided": "user_provided"}


def has_fingerprint(metadata: Mapping[str, Any] | None) -> bool:
    """Whether a collection's metadata holds a fingerprint, sound or not."""
    return FINGERPRINT_KEY in (metadata or {})


def with_fingerprint(metadata: Mapping[str, Any] | None, fingerprint: Fingerprint) -> dict[str, Any]:
    """A collection's metadata with the fingerprint in them."""
    return {**(metadata or {}), FINGERPRINT_KEY: json.dumps(fingerprint.to_dict())}


def read_fingerprint(name: str, metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The fingerprint that a collection's metadata holds, or None. Raises CollectionMismatch for a damaged one."""
    if not has_fingerprint(metadata):
        return None
    text = (metadata or {})[FINGERPRINT_KEY]
    try:
        stored = json.loads(text)
    except (TypeError, ValueError):
        stored = None
    if not isinstance(stored, dict) or "weights" not in stored:
        raise CollectionMismatch(
            f"Collection {name!r} has a damaged fingerprint, {str(text)[:80]!r} under {FINGERPRINT_KEY!r} of its "
            "metadata, so nobody can tell what made its vectors. If you know that they are of this model, pass "
            "`same_space=True`, or take the key out of the metadata with Chroma's own `modify`.",
            differences={"fingerprint": (text, None)},
        )
    return stored


def check_mode(name: str, configuration: Mapping[str, Any], embedder: Embedder, *, same_space: bool) -> None:
    """Raises CollectionMismatch when the collection was made in another mode, or by no function of this package."""
    stored_name = function_of(configuration)
    own_name = embedder.function.name()
    if stored_name == own_name or same_space:
        return
    if stored_name == NO_FUNCTION and MODES[own_name] == "user_provided":
        return  # without a function, its vectors came from the user
    was, now = MODES.get(stored_name), MODES[own_name]
    made = f"in mode {was!r}" if was else f"with the embedding function {stored_name!r}"
    default = (
        f"Vectors that Chroma's default function made are those of all-MiniLM-L6-v2, 384-d: model_name="
        f"{MODEL_OF_DEFAULT!r} in mode 'mlx' with `same_space=True` goes on with them, and no other model here. "
    )
    raise CollectionMismatch(
        f"Collection {name!r} was made {made}, and this router is in mode {now!r}: their vectors do not compare. "
        + (default if stored_name in CHROMAS_DEFAULT else "")
        + (f"Open it with `router.with_mode({was!r})`, or use" if was else "Use")
        + " another name for this mode's collection. If you know that the vectors are of one space, pass "
        "`same_space=True`.",
        differences={"mode": (was or stored_name, now)},
    )


def check_vectors(
    name: str,
    configuration: Mapping[str, Any],
    metadata: Mapping[str, Any] | None,
    embedder: Embedder,
    *,
    load: bool,
    same_space: bool,
) -> None:
    """Raises CollectionMismatch, naming the fields, when other vectors were stored than the embedder makes.

    Compared are the fingerprints; of a collection without one, that of its function's saved settings.
    Without `load`, a model that is not on this disk is compared by its settings, as far as they say.
    """
    if same_space or function_of(configuration) != embedder.function.name():
        return
    saved = (configuration.get("embedding_function") or {}).get("config") or {}
    differences = embedder.differences(saved, read_fingerprint(name, metadata), load=load)
    if differences:
        fields = ", ".join(f"{field} was {was!r} and is {now!r}" for field, (was, now) in differences.items())
        raise CollectionMismatch(
            f"Collection {name!r} holds vectors that were made in another way: {fields}. Vectors of two kinds do not "
            "compare. Open it with the settings it was made with, or embed its texts again into a new collection. If "
            "you know that the vectors are of one space (4-bit and bfloat16 weights of one model), pass "
            "`same_space=True`.",
            differences=differences,
        )


def function_of(configuration: Mapping[str, Any]) -> str:
    """The name of the function that a collection was made with, NO_FUNCTION where none is stored."""
    return str((configuration.get("embedding_function") or {}).get("name") or NO_FUNCTION)
