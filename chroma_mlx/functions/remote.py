"""The function of a program whose texts a `chroma-mlx serve` embeds."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, cast

import httpx
import numpy as np
import numpy.typing as npt
from chromadb.api.types import Documents, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from ..errors import ConfigError, DeadlineExceeded, InputError, RemoteError
from ..models.known import DEFAULT_MODEL
from ..rules import TIMEOUT, check_variable, refusals
from ..texts import check_kind, check_texts
from .saved import SavedFunction

Vectors = npt.NDArray[np.float32]

URL: Final = "http://127.0.0.1:8200"
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
# Of one request, below what a server takes in one.
TEXTS: Final = 256
CHARACTERS: Final = 250_000
# Seconds to come back in where a server does not say, doubled each time.
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0
# Less than the time after which any server closes a connection, so that none is taken up that is being closed.
LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
CONNECTION_LOST: Final = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
BUSY: Final = (429, 503)
NOT_VALID: Final = (400, 413, 422)
# From here on it is the server's fault, not the call's.
SERVER_FAILED: Final = 500
HEXADECIMAL: Final = re.compile("[0-9a-f]+")


@register_embedding_function
class RemoteEmbeddingFunction(SavedFunction):
    """Embeds text by a `chroma-mlx serve`, so that one process holds the model for many.

    The vectors are those that the server is configured to make. Each answer states their `space`, which changes
    whenever the same texts would get others; an answer with another than the first is refused. What is saved with
    the collection is where the server is and what it is asked for; the key is saved by the name of its environment
    variable alone. Making one asks no network. May be called from any thread.
    """

    NAME: ClassVar[str] = "chroma_mlx_remote"
    # The same model may be served elsewhere, and ask for another key.
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"url", "api_key_env_var"})

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        *,
        url: str = URL,
        dimension: int | None = None,
        api_key_env_var: str | None = None,
        space: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Checks the arguments.

        Args:
            model_name: a model that the server serves, by its short name, Hub repository id or folder there.
            url: where the server is, without user and password.
            dimension: width of the vectors, cut from the full ones (Matryoshka); None is what the server is
                configured with.
            api_key_env_var: the environment variable that holds the server's key; None sends none.
            space: what the server's answers must state; None takes the first answer's.
            timeout_s: how long a call may take, with every time that a busy server tells it to come back; not
                saved with the collection.

        Raises ConfigError for an argument that is not allowed.
        """
        self.model_name, self.url, self.dimension = model_name, url, dimension
        self.api_key_env_var, self.space, self.timeout_s = api_key_env_var, space, timeout_s
        self.validate_config(self.get_config())
        if found := refusals({"timeout_s": timeout_s}, {"timeout_s": TIMEOUT}):
            raise ConfigError(found[0][1])
        self.url = url.rstrip("/")
        self._space = space
        self._client: httpx.Client | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def __call__(self, input: Documents) -> Embeddings:
        """Embeds documents: one float32 array of shape (dimension,) a text.

        Raises InputError naming the text, ConfigError for a setting that the server's model does not have,
        DeadlineExceeded, and RemoteError where the server cannot be reached, fails, or makes other vectors than before.
        """
        return cast(Embeddings, list(self.encode(input)))

    def embed_query(self, input: Documents) -> Embeddings:
        """Embeds queries, behind the model's instruction. Returns and raises as for documents."""
        return cast(Embeddings, list(self.encode(input, "query")))

    def encode(self, texts: Sequence[str], kind: Literal["document", "query"] = "document") -> Vectors:
        """The vectors as one array, (len(texts), dimension) float32. Raises what a call raises."""
        return self._encode(texts, kind, threading.Event())

    def _encode(self, texts: Sequence[str], kind: str, left: threading.Event) -> Vectors:
        """As `encode`, until nobody waits for it any more, and `left` is set."""
        check_kind(kind)
        until = _Until(time.monotonic() + self.timeout_s, left)
        checked, parts = check_texts(texts), []
        for start, some in _parts(checked):
            parts.append(self._embed(some, start, kind, until))
        return np.concatenate(parts)

    async def aembed(self, texts: Sequence[str], kind: Literal["document", "query"] = "document") -> Vectors:
        """As `encode`, in a thread, so that an event loop goes on meanwhile. Cancelled, it asks no more."""
        left = threading.Event()
        try:
            return await asyncio.to_thread(self._encode, texts, kind, left)
        finally:
            left.set()

    def _embed(self, texts: list[str], start: int, kind: str, until: _Until) -> Vectors:
        """The vectors of a part, in smaller ones where it is too large. start: the first text's place in the call."""
        body: dict[str, Any] = {"texts": texts, "model": self.model_name, "kind": kind}
        if self.dimension is not None:
            body["dimension"] = self.dimension
        answer = self._answer(body, until)
        if answer.status_code != 413 or _code(answer) != "request_too_large" or len(texts) == 1:
            return self._read(answer, len(texts), start)
        half = len(texts) // 2
        first = self._embed(texts[:half], start, kind, until)
        return np.concatenate([first, self._embed(texts[half:], start + half, kind, until)])

    def _answer(self, body: dict[str, Any], until: _Until) -> httpx.Response:
        """Asks until the server is not busy, or the time is up; once more where the connection is lost."""
        wait, lost, deadline = FIRST_WAIT_S, False, until.deadline
        while time.monotonic() < deadline and not until.left.is_set():
            try:
                answer = self._post(body, deadline)
            except httpx.TimeoutException:
                break
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if isinstance(error, CONNECTION_LOST) and not lost:
                    lost = True  # embedding the same twice does no harm
                    continue
                raise RemoteError(
                    f"The embedding server at {self.url} cannot be reached: {error or type(error).__name__}. Start it "
                    f"with `chroma-mlx serve --model {self.model_name}`, or set `url` to where it is.",
                    may_pass=True,
                ) from error
            if answer.status_code not in BUSY or _code(answer) == "model_unavailable":
                return answer
            until.pause(min(_retry_after(answer) or wait, deadline - time.monotonic()))
            wait, lost = min(2 * wait, LONGEST_WAIT_S), False
        raise DeadlineExceeded(waited_s=self.timeout_s + time.monotonic() - deadline)

    def _post(self, body: dict[str, Any], deadline: float) -> httpx.Response:
        """The whole answer. Raises httpx.ReadTimeout when the time is up, also while the answer comes in drops."""
        # httpx bounds each single read, and not all of them.
        left = max(0.001, deadline - time.monotonic())
        stream = self._connection().stream
        with stream("POST", "/embed", json=body, headers=self._headers(), timeout=left) as answer:
            content = bytearray()
            for chunk in answer.iter_raw():
                content += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("The answer did not come in time.")
            return httpx.Response(answer.status_code, headers=answer.headers, content=bytes(content))

    def _read(self, answer: httpx.Response, count: int, start: int) -> Vectors:
        """The vectors of an answer; raises what the server says, in the words of this package."""
        try:
            body = answer.json()
            if answer.status_code == 200:
                vectors, space = np.array(body["embeddings"], dtype=np.float32), body.get("space")
                if vectors.shape != (count, body["dimension"]) or not np.isfinite(vectors).all():
                    raise ValueError("it does not have a finite vector for each text")
                if not isinstance(space, str) or not HEXADECIMAL.fullmatch(space):
                    raise ValueError("it does not state the `space` of its vectors")
                self._hold_to(space)
                return vectors
            message, field = str(body["message"]), body.get("field")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise RemoteError(
                f"{self.url} answered {answer.status_code} with something that is no answer of chroma-mlx: {error}. "
                "See what listens there; the url is the server's own, without /v1.",
                may_pass=answer.status_code >= SERVER_FAILED,
            ) from error
        if answer.status_code in NOT_VALID:
            if place := re.match(r"texts\[([0-9]+)\]", str(field)):
                index = start + int(place[1])
                raise InputError(f"Text {index}: {message}", index=index)
            if count == 1 and _code(answer) == "request_too_large":
                raise InputError(f"Text {start} alone is more than the server takes: {message}", index=start)
            raise ConfigError(f"The embedding server at {self.url} refuses: {message}")
        raise RemoteError(
            f"The embedding server at {self.url} answered {answer.status_code}: {message}",
            may_pass=answer.status_code >= SERVER_FAILED,
        )

    def _hold_to(self, space: str) -> None:
        """Keeps the first space, and raises RemoteError for another."""
        with self._lock:
            if self._space is None:
                self._space = space
            first = self._space
        if space != first:
            raise RemoteError(
                f"The embedding server at {self.url} now makes other vectors than before: their space is {space}, and "
                f"was {first}; start it as it was, or make the collection anew, and start this program again. Nothing "
                "of this call is returned.",
                may_pass=False,
            )

    def _headers(self) -> dict[str, str]:
        if self.api_key_env_var is None:
            return {}
        key = os.environ.get(self.api_key_env_var, "").strip()
        if not key:
            raise ConfigError(
                f"The environment variable {self.api_key_env_var}, which is to hold the server's key, is not set. Set "
                "it, or make the function without api_key_env_var."
            )
        if not (key.isascii() and key.isprintable()):  # else whoever cannot send it shows it in an error
            raise ConfigError(
                f"The environment variable {self.api_key_env_var} holds something other than printable ASCII, which "
                "no key is. Set it to the server's key."
            )
        return {"authorization": f"Bearer {key}"}

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection, so that the function can be sent to another process."""
        return {name: value for name, value in vars(self).items() if name not in ("_client", "_lock", "_pid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See __getstate__."""
        vars(self).update(state)
        self._client, self._pid, self._lock = None, 0, threading.Lock()

    def _connection(self) -> httpx.Client:
        """Kept, and made anew in a forked child."""
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                # A proxy of the environment would be given texts and key that never leave this machine.
                own = httpx.URL(self.url).host not in LOOPBACK
                self._client, self._pid = httpx.Client(base_url=self.url, limits=LIMITS, trust_env=own), os.getpid()
                weakref.finalize(self, self._client.close)
            return self._client

    def get_config(self) -> dict[str, Any]:
        """Where the server is and what it is asked for; never the key."""
        return {
            "model_name": self.model_name,
            "url": self.url,
            "dimension": self.dimension,
            "api_key_env_var": self.api_key_env_var,
            "space": self.space,
        }

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Raises ConfigError, naming every problem, unless the configuration fits the schema and its url is one."""
        url, variable = (config.get(key) if isinstance(config, dict) else None for key in ("url", "api_key_env_var"))
        # Here, since the schema's own error shows the value.
        if variable is not None:
            check_variable("api_key_env_var", variable)
        if isinstance(url, str) and "@" in re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]:
            raise ConfigError("url holds a user or a password, and is saved and shown. Set it without.")
        super().validate_config(config)
        try:
            parsed = httpx.URL(config["url"])
            if not parsed.host or not 0 < (parsed.port or 80) < 2**16:
                raise httpx.InvalidURL("its host or port is none")
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(
                f"url is {url!r}, which is not allowed: {error}. Set it to where the server is."
            ) from error

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """As of every function; a `space` may also be set where there was none."""
        old = self.build_from_config(old_config).get_config()
        if old["space"] is None:
            old["space"] = self.build_from_config(new_config).space
        super().validate_config_update(old, new_config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> RemoteEmbeddingFunction:
        """The function of a saved configuration: one for all collections that have the same.

        Chroma asks for it at every call of a collection that was opened without one, and it holds a connection, and the
        space that all answers must state. Raises ConfigError when it is not valid.
        """
        defaults = {"model_name": DEFAULT_MODEL, "url": URL, "dimension": None, "api_key_env_var": None, "space": None}
        return _built(**RemoteEmbeddingFunction.completed(config, **defaults))


@functools.lru_cache(maxsize=64)
def _built(**config: Any) -> RemoteEmbeddingFunction:
    return RemoteEmbeddingFunction(**config)


@dataclass(frozen=True, slots=True)
class _Until:
    """How long a call asks: to a moment of time.monotonic(), or until `left` is set by a caller who is gone."""

    deadline: float
    left: threading.Event

    def pause(self, seconds: float) -> None:
        """Waits so long, unless the caller goes."""
        self.left.wait(max(0.0, seconds))


def _parts(texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(place of the first, texts) of each request."""
    start, characters = 0, 0
    for place, text in enumerate(texts):
        if place > start and (place - start >= TEXTS or characters + len(text) > CHARACTERS):
            yield start, texts[start:place]
            start, characters = place, 0
        characters += len(text)
    yield start, texts[start:]


def _code(answer: httpx.Response) -> str | None:
    """The word for what is wrong, in an answer of the server itself."""
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return None


def _retry_after(answer: httpx.Response) -> float | None:
    """When a busy server says to come back, in seconds."""
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(answer.headers[header]) * unit
        except (KeyError, ValueError):
            continue
        if seconds > 0:
            return seconds
    return None
