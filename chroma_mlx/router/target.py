"""A collection as the router knows it, and what is stored with it: its function, its width, its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import CollectionMismatch
from ..models.known import find_known
from .embedders import Embedder
from .report import UsageCounter
from .steps import Call, Steps

FINGERPRINT_KEY: Final = "chroma_mlx:fingerprint"
# A key of older Chroma that says the space again; modify() refuses metadata that has it.
SPACE_KEY: Final = "hnsw:space"
MODES: Final = {"chroma_mlx": "mlx", "chroma_mlx_mock": "mock", "chroma_mlx_user_provided": "user_provided"}


@dataclass(slots=True, kw_only=True)
class Target:
    """A collection of a client (plain or asynchronous), and who embeds for it.

    `width` is None as long as nothing is stored; `settled` once the fingerprint of the loaded model has been
    compared with the stored one.
    """

    client: Any
    chroma: Any
    embedder: Embedder
    usage: UsageCounter
    same_space: bool
    width: int | None = None
    max_batch: int | None = None
    settled: bool = field(default=False)

    @property
    def name(self) -> str:
        """The collection's name."""
        return str(self.chroma.name)

    @property
    def space(self) -> str:
        """How Chroma compares vectors here: "cosine", "ip" or "l2"."""
        return space_of(self.chroma.configuration_json)

    def find_width(self) -> Steps[int | None]:
        """The width of the stored vectors, None while there are none. Asks until it is known: it never changes."""
        if self.width is None:
            handle = yield Call(self.client.get_collection, {"name": self.name})
            # Not this handle's own: that keeps what it was when the collection was opened.
            self.width = handle.get_model()["dimension"] if handle.id == self.chroma.id else None
        return self.width

    def find_max_batch(self) -> Steps[int]:
        """The most records that the client takes in a call."""
        if self.max_batch is None:
            stated = yield Call(self.client.get_max_batch_size)
            self.max_batch = stated if stated and stated > 0 else 1_000
        return self.max_batch

    def settle(self, *, write: bool) -> Steps[None]:
        """Loads the model and compares its fingerprint with the stored one; with `write`, stores it if there is none.

        Raises CollectionMismatch, and what loading raises.
        """
        if self.settled:
            return
        own = yield Call(self.embedder.fingerprint, {"load": True}, computes=True)
        if own is not None:
            handle = yield Call(self.client.get_collection, {"name": self.name})
            stored = read_fingerprint(handle.metadata)
            if stored is not None:
                check_fingerprint(self.name, stored, own, same_space=self.same_space)
            elif write:
                metadata = {**(handle.metadata or {}), FINGERPRINT_KEY: json.dumps(own.to_dict())}
                metadata.pop(SPACE_KEY, None)
                yield Call(self.chroma.modify, {"metadata": metadata})
            else:
                return  # nothing is stored yet, or a plain function stored it
        self.settled = True


def space_of(configuration: Mapping[str, Any]) -> str:
    """The space of a collection's configuration."""
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    return str(index.get("space") or "l2")


def read_fingerprint(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The fingerprint that a collection's metadata holds, or None."""
    try:
        stored = json.loads((metadata or {}).get(FINGERPRINT_KEY, "null"))
    except (TypeError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def check_fingerprint(name: str, stored: Mapping[str, Any], own: Any, *, same_space: bool) -> None:
    """Raises CollectionMismatch, naming the fields, when other vectors were stored than `own` makes."""
    differences = own.differences(stored)
    if differences and not same_space:
        raise mismatch(name, differences)


def check_function(name: str, configuration: Mapping[str, Any], embedder: Embedder, *, same_space: bool) -> None:
    """Raises CollectionMismatch when the collection was made in another mode, or with other settings.

    Where fingerprints can be compared, these say more than the settings; see `open_target`.
    """
    function = embedder.function
    stored = configuration.get("embedding_function") or {}
    stored_name = stored.get("name") or "none"
    if same_space:
        return
    if stored_name != function.name():
        was, now = MODES.get(stored_name), MODES[function.name()]
        made = f"in mode {was!r}" if was else f"with the embedding function {stored_name!r}"
        raise CollectionMismatch(
            f"Collection {name!r} was made {made}, and this router is in mode {now!r}: their vectors do not compare. "
            + (f"Open it with `router.with_mode({was!r})`, or use" if was else "Use")
            + " another name for this mode's collection. If you know that the vectors are of one space, pass "
            "`same_space=True`.",
            differences={"mode": (was or stored_name, now)},
        )


def check_settings(name: str, configuration: Mapping[str, Any], embedder: Embedder, *, same_space: bool) -> None:
    """Raises CollectionMismatch when the saved settings of the function are others than the router's."""
    stored = (configuration.get("embedding_function") or {}).get("config") or {}
    function = embedder.function
    own, stored = _plain(function.get_config()), _plain(stored)
    changed = {
        key: (stored[key], own[key])
        for key in own
        if key in stored and stored[key] != own[key] and key not in function.CHANGEABLE
    }
    if changed and not same_space:
        raise mismatch(name, changed)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with what the table knows in it: one name a model, and its own width for None."""
    known = find_known(config.get("model_name", ""))
    if known is None:
        return dict(config)
    return {**config, "model_name": known.name, "dimension": config.get("dimension") or known.dimension}


def mismatch(name: str, differences: Mapping[str, tuple[Any, Any]]) -> CollectionMismatch:
    """The error that names what is different."""
    fields = ", ".join(f"{field} was {was!r} and is {now!r}" for field, (was, now) in differences.items())
    return CollectionMismatch(
        f"Collection {name!r} holds vectors that were made in another way: {fields}. Vectors of two kinds do not "
        "compare. Open it with the settings it was made with, or embed its texts again into a new collection. If you "
        "know that the vectors are of one space (4-bit and bfloat16 weights of one model), pass `same_space=True`.",
        differences=differences,
    )
