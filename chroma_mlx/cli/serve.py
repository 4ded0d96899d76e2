"""`chroma-mlx serve`: one process holds the model for many programs."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, MissingPackage
from .arguments import add_config, path, positive, timeout

# Modules, and what installs each.
PACKAGES: Final = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "pydantic": "pydantic",
    "prometheus_client": "prometheus-client",
    "orjson": "orjson",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "google.protobuf": "protobuf",
}


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "serve",
        help="serve embeddings over HTTP: the native API and OpenAI's",
        description="Serves embeddings over HTTP: POST /embed, POST /v1/embeddings (OpenAI's), GET /health, /ready, "
        "/models, /metrics and /docs; with --grpc-port over gRPC too, as chroma_mlx/server/embedding.proto says. "
        "Needs the extra: pip install 'chroma-mlx[server]'. Ends on SIGTERM or Ctrl-C, when what is under way has "
        "been answered.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8200, metavar="N", help="the port to listen on (8200)")
    parser.add_argument("--grpc-port", type=int, metavar="N", help="also serve gRPC, on this port")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="short name, Hub repository id or folder; may be given again, and the first is the default one",
    )
    parser.add_argument("--api-key-file", type=path, metavar="FILE", help="ask every client for the key in this file")
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without a key")
    parser.add_argument(
        "--max-queue",
        type=positive,
        metavar="N",
        help="most texts that wait, before requests are told to come back (as configured)",
    )
    parser.add_argument("--max-body-bytes", type=positive, metavar="N", help="largest body of a request (8 MiB)")
    parser.add_argument("--max-texts", type=positive, metavar="N", help="most texts in a request (2048)")
    parser.add_argument("--max-request-tokens", type=positive, metavar="N", help="most tokens in one (300000)")
    parser.add_argument("--timeout", type=timeout, metavar="SECONDS", help="longest that a request may take (60)")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Checks everything, then serves."""
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingPackage(package, "'chroma-mlx[server]'")
    from ..config import resolve
    from ..server.options import Limits, ServerOptions
    from ..server.run import run

    given = {
        "body_bytes": options.max_body_bytes,
        "texts": options.max_texts,
        "tokens": options.max_request_tokens,
        "seconds": options.timeout,
    }
    names: list[dict[str, Any]] = [{"model_name": name} for name in options.model or []]
    settings = {"mode": "mlx"} | ({} if options.max_queue is None else {"max_queue": options.max_queue})
    configs = [resolve(options.config, {**settings, **name}).config for name in names or [{}]]
    return run(
        ServerOptions(
            # The event loop would hold up the model otherwise, and the other way round.
            configs=tuple(replace(config, own_process=config.own_process is not False) for config in configs),
            host=options.host,
            port=options.port,
            grpc_port=options.grpc_port,
            api_key=None if options.api_key_file is None else _read_key(options.api_key_file),
            insecure=options.insecure,
            limits=replace(Limits(), **{key: value for key, value in given.items() if value is not None}),
        )
    )


def _read_key(file: Path) -> str:
    from ..server.options import is_key

    try:
        key = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The key cannot be read from {file}: {error}. Write it there, in one line.") from error
    if not is_key(key):
        raise ConfigError(f"{file} holds no key, which is one line of printable ASCII. Write it there.")
    return key
