"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..config import EmbeddingConfig
from ..errors import ConfigError
from ..functions.remote import LOOPBACK

PORT: Final = 8200


def is_key(text: str) -> bool:
    """Whether a text can be a key: what an HTTP header takes."""
    return bool(text) and text.isascii() and text.isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for.

    `body_bytes` of it, `texts` and `tokens` in it, and the `seconds` until it is answered.
    """

    body_bytes: int = 8 * 2**20
    texts: int = 2_048
    tokens: int = 300_000
    seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server listens, what it serves and what it refuses.

    configs: one for each model, the first the one that a request without `model` gets. `api_key` None asks for none.
    `grpc_port` None starts no gRPC. Raises ConfigError where it would listen beyond this machine without a key,
    unless `insecure`.
    """

    configs: tuple[EmbeddingConfig, ...]
    host: str = "127.0.0.1"
    port: int = PORT
    grpc_port: int | None = None
    api_key: str | None = None
    insecure: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and self.api_key is None and not self.insecure:
            raise ConfigError(
                f"host is {self.host!r}, which others can reach, and there is no key, so anybody there could use the "
                "server. Give it a key with --api-key-file, or stay on 127.0.0.1; --insecure starts it all the same."
            )
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port or 0)):
            if not 0 <= port <= 65_535:
                raise ConfigError(f"{name} is {port}, which is no port. Set it to 1 to 65535, or 0 for any free one.")
        if self.api_key is not None and not is_key(self.api_key):
            raise ConfigError("The API key is empty or has characters that no HTTP header takes. Use printable ASCII.")
