"""The ways that texts become vectors, each behind the same three members. Imported in a peer's own environment."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from products import mlx_product_rate, torch_product_rate
from workloads import INSTRUCTION

Vectors = npt.NDArray[np.float32]
BATCH = 8  # of the plain loops as users write them: texts in input order, padded to the longest


class Peer(Protocol):
    """A loaded model. `computed` counts the tokens it was given so far, padding included.

    Two more counts, of a peer that has them: `unasked` are the tokens of which its last layer computed only keys
    and values, `places` those that attention computed where it pads and the rest does not. `sorts` is whether the
    padding depends on how many texts a call has.
    """

    computed: int = 0
    unasked: int = 0
    places: int = 0
    sorts: bool = False

    def embed(self, texts: Sequence[str], instruction: str = "") -> Vectors:
        """Vectors of unit length, (n, dimension), each text behind `instruction`."""

    def planned(self, lengths: Sequence[int]) -> int:
        """How many tokens one call with texts of `lengths` computes, padding included."""

    def product_rate(self) -> float | None:
        """GFLOP/s of the framework's own bfloat16 product on the GPU; None on a CPU."""


def open_peer(kind: str, folder: str, device: str, limit: int, **options: Any) -> Peer:
    """Loads the model in `folder`, ready for its first text."""
    makers: dict[str, Any] = {
        "ours": Ours,
        "mlx_lm": partial(MLXLoop, load_with=_load_mlx_lm),
        "mlx_embeddings": partial(MLXLoop, load_with=_load_mlx_embeddings),
        "sentence_transformers": SentenceTransformers,
        "chroma": ChromaFunction,
    }
    peer: Peer = makers[kind](folder, device=device, limit=limit, **options)
    return peer


class Ours(Peer):
    """This project's embedding function."""

    def __init__(self, folder: str, *, device: str, limit: int) -> None:
        from chroma_mlx import MLXEmbeddingFunction

        self.device = device
        wanted: Any = device
        self._function = MLXEmbeddingFunction(
            folder, device=wanted, max_tokens=limit, query_instruction=INSTRUCTION, show_progress=False
        )
        self._count(self._function.encoder().load())

    def _count(self, model: Any) -> None:
        """Counts the tokens of each forward pass, and of its groups of rows for attention, which alone pads."""
        encoder, lock = model.network.encoder, threading.Lock()  # of a pass in parts several threads count

        class Counting:
            causal = encoder.causal
            embed = staticmethod(encoder.embed)

            def __call__(this, batch: Any, x: Any = None) -> Any:  # noqa: N805 - `self` is the outer one
                rows = [group.every for group in batch.groups]
                with lock:
                    self.computed += batch.ids.size
                    self.unasked += 0 if batch.wanted is None else batch.ids.size - batch.wanted.size
                    self.places += sum(len(each.keys) * each.positions.shape[1] for each in rows)  # G * R
                return encoder(batch, x)

        object.__setattr__(model.network, "encoder", Counting())

    def embed(self, texts: Sequence[str], instruction: str = "") -> Vectors:
        return self._function.encode(list(texts), "query" if instruction else "document")

    def planned(self, lengths: Sequence[int]) -> int:
        return sum(lengths)

    def product_rate(self) -> float | None:
        return mlx_product_rate() if self.device == "gpu" else None


class MLXLoop(Peer):
    """A model of mlx-lm or mlx-embeddings in the loop that users write, on MLX as it comes or on our BLAS."""

    def __init__(
        self, folder: str, *, device: str, limit: int, load_with: Any, fast: bool = False, batch: int = BATCH
    ) -> None:
        if fast:
            _give_fast_blas()
        import mlx.core as mx
        from tokenizers import Tokenizer

        mx.set_default_device(mx.gpu if device == "gpu" else mx.cpu)
        self.device, self._batch = device, batch
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        self._forward = load_with(folder)

    def embed(self, texts: Sequence[str], instruction: str = "") -> Vectors:
        import mlx.core as mx

        rows = [encoding.ids for encoding in self._tokenizer.encode_batch([instruction + text for text in texts])]
        parts = []
        for first in range(0, len(rows), self._batch):
            batch = rows[first : first + self._batch]
            lengths = np.array(list(map(len, batch)))
            ids = np.zeros((len(batch), int(lengths.max())), dtype=np.int32)  # (B, L)
            for place, row in enumerate(batch):
                ids[place, : len(row)] = row
            self.computed += ids.size
            parts.append(np.array(self._forward(ids, lengths).astype(mx.float32)))  # (B, H)
        return unit(np.concatenate(parts))

    def planned(self, lengths: Sequence[int]) -> int:
        return padded(lengths, self._batch)

    def product_rate(self) -> float | None:
        return mlx_product_rate() if self.device == "gpu" else None


def _load_mlx_lm(folder: str) -> Any:
    """mlx-lm's model without its logits, and the pooling that the folder asks for."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    file = Path(folder) / "1_Pooling" / "config.json"
    mean = file.exists() and json.loads(file.read_text()).get("pooling_mode_mean_tokens", False)

    def forward(ids: Any, lengths: Any) -> Any:
        hidden = model.model(mx.array(ids))  # (B, L, H)
        if not mean:
            return hidden[mx.arange(len(lengths)), mx.array(lengths - 1)]
        mask = mx.array(np.arange(ids.shape[1]) < lengths[:, None])[:, :, None]  # (B, L, 1)
        return (hidden * mask).sum(axis=1)  # (B, H); its length is set to one later

    return forward


def _load_mlx_embeddings(folder: str) -> Any:
    """mlx-embeddings' model, which pools by itself."""
    import mlx.core as mx
    from mlx_embeddings.utils import load_model  # type: ignore[import-not-found]  # only in its environment

    model = load_model(Path(folder), path_to_repo=folder)

    def forward(ids: Any, lengths: Any) -> Any:
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32)
        return model(mx.array(ids), attention_mask=mx.array(mask)).text_embeds

    return forward


def _give_fast_blas() -> None:
    """This project's BLAS, as its engine loads it. The package itself would want Chroma, which is not there."""
    package = types.ModuleType("chroma_mlx")
    package.__path__ = [str(Path(__file__).parent.parent / "chroma_mlx")]
    sys.modules["chroma_mlx"] = package
    from chroma_mlx.blas import load_fast_blas

    if not load_fast_blas().fast:
        raise RuntimeError("no fast BLAS is to be had in this environment")


class SentenceTransformers(Peer):
    """sentence-transformers on torch; it sorts texts by length into batches of `batch`."""

    def __init__(self, folder: str, *, device: str, limit: int, dtype: str, batch: int) -> None:
        import torch  # type: ignore[import-not-found]  # only in its environment
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

        self.sorts, self._batch, self._device = batch > 1, batch, _torch_device(device)
        self._model = SentenceTransformer(
            folder, device=self._device, local_files_only=True, model_kwargs={"dtype": getattr(torch, dtype)}
        )
        self._model.max_seq_length = limit
        watch_torch(self, self._model)

    def embed(self, texts: Sequence[str], instruction: str = "") -> Vectors:
        rows = [instruction + text for text in texts]
        return unit(self._model.encode(rows, batch_size=self._batch, show_progress_bar=False).astype(np.float32))

    def planned(self, lengths: Sequence[int]) -> int:
        return padded(sorted(lengths, reverse=True), self._batch)

    def product_rate(self) -> float | None:
        return None if self._device == "cpu" else torch_product_rate(self._device)


class ChromaFunction(Peer):
    """Chroma's own SentenceTransformerEmbeddingFunction, at the batch size that it leaves as it is: 32."""

    def __init__(self, folder: str, *, device: str, limit: int) -> None:
        from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

        self.sorts, self._device = True, _torch_device(device)
        self._function = SentenceTransformerEmbeddingFunction(folder, device=self._device, normalize_embeddings=True)
        watch_torch(self, self._function._model)

    def embed(self, texts: Sequence[str], instruction: str = "") -> Vectors:
        return unit(np.stack(self._function([instruction + text for text in texts])).astype(np.float32))

    def planned(self, lengths: Sequence[int]) -> int:
        return padded(sorted(lengths, reverse=True), 32)

    def product_rate(self) -> float | None:
        return None if self._device == "cpu" else torch_product_rate(self._device)


def _torch_device(device: str) -> str:
    on_gpu = "mps" if sys.platform == "darwin" else "cuda"
    return on_gpu if device == "gpu" else "cpu"


def watch_torch(peer: Any, model: Any) -> None:
    """Adds the size of every batch that the transformer is given to `peer.computed`."""

    def count(_: Any, arguments: tuple[Any, ...]) -> None:
        peer.computed += arguments[0]["input_ids"].numel()

    model[0].register_forward_pre_hook(count)


def unit(vectors: Vectors) -> Vectors:
    """The vectors at unit length."""
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def padded(lengths: Sequence[int], batch: int) -> int:
    """Tokens of texts of `lengths` in batches of so many, in this order, each padded to its longest."""
    rest = iter(lengths)
    parts = iter(lambda: list(islice(rest, batch)), [])
    return sum(len(part) * max(part) for part in parts)
