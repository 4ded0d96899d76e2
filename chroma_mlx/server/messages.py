"""The messages of `embedding.proto`, as classes.

They are made at run time from what protoc compiled, `embedding.binpb`: modules that protoc writes work with one major
version of protobuf only. After a change of the .proto:

    python -m grpc_tools.protoc -I. --include_imports \
        --descriptor_set_out=chroma_mlx/server/embedding.binpb chroma_mlx/server/embedding.proto
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from ..engine.encoder import Vectors

PACKAGE: Final = "chroma_mlx.v1"
SERVICE: Final = f"{PACKAGE}.EmbeddingService"
DESCRIPTORS: Final = Path(__file__).with_name("embedding.binpb")
# Field 1 of a message, of bytes that follow their length: `embeddings` of EmbedResponse, `values` of Embedding.
FIELD_1: Final = b"\x0a"


def _read() -> DescriptorPool:
    # A pool of its own: a client's generated modules in the same process have the same names.
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL: Final = _read()


def _class(name: str) -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


EmbedRequest: Final = _class("EmbedRequest")
EmbedResponse: Final = _class("EmbedResponse")
Error: Final = _class("Error")
Model: Final = _class("Model")
ModelInfoRequest: Final = _class("ModelInfoRequest")
ModelInfoResponse: Final = _class("ModelInfoResponse")
Usage: Final = _class("Usage")


def with_vectors(response: Any, vectors: Vectors) -> bytes:
    """An EmbedResponse with `embeddings`, serialised.

    Packed floats are little-endian float32 on the wire, so rows are copied as they are: a Python number for each of
    millions would hold the event loop for long.
    """
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    width = rows.shape[1] * 4
    values = FIELD_1 + _varint(width)
    head = FIELD_1 + _varint(len(values) + width) + values
    return b"".join([response.SerializeToString(), *(part for row in rows for part in (head, row.tobytes()))])


def _varint(number: int) -> bytes:
    """A length as protobuf has it: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
