"""A collection as the router knows it: its width, its batches, and the fingerprint stored with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chromadb.errors import NotFoundError

from .embedders import Embedder
from .matching import FINGERPRINT_KEY, check_vectors, has_fingerprint, with_fingerprint
from .report import UsageCounter
from .same_space import check_same_space, has_few_bits
from .steps import Call, Steps

if TYPE_CHECKING:
    from ..engine.encoder import Embedded
    from ..engine.fingerprint import Fingerprint
    from ..engine.plan import Kind

# A key of older Chroma that says the space again; modify() refuses metadata that has it.
SPACE_KEY = "hnsw:space"
# Where a client states no maximum.
RECORDS_A_CALL = 1_000


def index_of(chroma: Any) -> dict[str, Any]:
    """The settings of a collection's index, whichever kind it is."""
    configuration = chroma.configuration_json
    return dict(configuration.get("hnsw") or configuration.get("spann") or {})


def space_of(chroma: Any) -> str:
    """How Chroma compares a collection's vectors: "cosine", "ip" or "l2"."""
    return str(index_of(chroma).get("space") or "l2")


@dataclass(slots=True, kw_only=True)
class Target:
    """A collection of a client (plain or asynchronous), and who embeds for it.

    `width` is None as long as nothing is stored. `settled`: the loaded model was compared with what made the
    stored vectors. `signature` is the fingerprint that is to be stored with the first text, None for none.
    """

    client: Any
    chroma: Any
    embedder: Embedder
    usage: UsageCounter
    same_space: bool
    width: int | None = None
    max_batch: int | None = None
    settled: bool = False
    signature: Fingerprint | None = None

    @property
    def name(self) -> str:
        """The collection's name."""
        return str(self.chroma.name)

    @property
    def space(self) -> str:
        """How Chroma compares vectors here: "cosine", "ip" or "l2"."""
        return space_of(self.chroma)

    def embed(self, texts: Sequence[str | None], kind: Kind) -> Steps[Embedded]:
        """The vectors of `texts`, and the tokens computed for them."""
        embedder, arguments = self.embedder, {"texts": texts, "kind": kind}
        embedded: Embedded = yield Call(embedder.embed, arguments, computes=True, awaited=embedder.aembed)
        return embedded

    def find_width(self) -> Steps[int | None]:
        """The width of the stored vectors, None while there are none. Asks until it is known: it never changes."""
        if self.width is None:
            handle = yield from self._fresh()
            self.width = None if handle is None else handle.get_model()["dimension"]
        return self.width

    def find_max_batch(self) -> Steps[int]:
        """The most records that the client takes in a call."""
        if self.max_batch is None:
            stated = yield Call(self.client.get_max_batch_size)
            self.max_batch = stated if stated and stated > 0 else RECORDS_A_CALL
        return self.max_batch

    def settle(self) -> Steps[None]:
        """Loads the model and compares it with what made the stored vectors.

        Raises CollectionMismatch, and what loading raises.
        """
        if self.settled:
            return
        own = yield Call(self.embedder.fingerprint, {"load": True}, computes=True)
        handle = (yield from self._fresh()) or self.chroma
        stored = {"configuration": handle.configuration_json, "metadata": handle.metadata}
        arguments = {"name": self.name, "embedder": self.embedder, "load": True, "same_space": self.same_space}
        yield Call(check_vectors, {**stored, **arguments}, computes=True)
        if self.same_space:
            few_bits = has_few_bits(handle.configuration_json, handle.metadata, own)
            yield from check_same_space(self.name, self.chroma, self.space, self.embedder, few_bits=few_bits)
        # A guest of another kind does not sign for the host.
        self.signature = None if self.same_space or has_fingerprint(handle.metadata) else own
        self.settled = True

    def sign(self) -> Steps[None]:
        """Stores the fingerprint, if there is none yet."""
        if self.signature is None:
            return
        handle = yield from self._fresh()
        if handle is not None and not has_fingerprint(handle.metadata):
            metadata = with_fingerprint(handle.metadata, self.signature)
            metadata.pop(SPACE_KEY, None)
            yield Call(self.chroma.modify, {"metadata": metadata})
        self.signature = None

    def modify(
        self, name: str | None, metadata: Mapping[str, Any] | None, configuration: Mapping[str, Any] | None
    ) -> Steps[None]:
        """Chroma's own; new metadata replace all of the old, but for the fingerprint as it is stored now."""
        if metadata is not None:
            handle = yield from self._fresh()
            stored = (handle.metadata or {}).get(FINGERPRINT_KEY) if handle is not None else None
            metadata = {**({} if stored is None else {FINGERPRINT_KEY: stored}), **metadata}
        yield Call(self.chroma.modify, {"name": name, "metadata": metadata, "configuration": configuration})

    def _fresh(self) -> Steps[Any]:
        """The collection as it is stored now: a handle keeps what it was when it was opened.

        None if another has its name, or none has: it was renamed, which a handle outlives, or deleted.
        """
        try:
            handle = yield Call(self.client.get_collection, {"name": self.name})
        except NotFoundError:
            return None
        return handle if handle.id == self.chroma.id else None
