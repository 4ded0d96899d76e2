"""A small Hub on loopback: serves checkpoints as huggingface.co does, counts what is asked, misbehaves when told."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

API: Final = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?/?")
RESOLVE: Final = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
# The real Hub keeps these as large files, which it names by their SHA-256.
LARGE: Final = ".safetensors"
# How long a test that went wrong may hold a stalled answer.
STALL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Refusal:
    """Requests whose path has `part` in it are answered with `status`, `times` more times; None is for ever."""

    part: str
    status: int
    times: int | None
    headers: Mapping[str, str]


@dataclass
class HubServer:
    """A context that serves `files` of the repository `repo` at `endpoint`."""

    repo: str
    files: dict[str, bytes]
    asked: list[Asked] = field(default_factory=list)
    # Bytes of content sent, by the file's name.
    sent: Counter[str] = field(default_factory=Counter)
    # What is sent in place of a file, whose size and hash are still stated as they should be.
    instead: dict[str, bytes] = field(default_factory=dict)
    # Where the connection is closed, as an offset in the file.
    cut_at: dict[str, int] = field(default_factory=dict)
    # Where the answer halts until `go_on` is set; `halted` says that it does.
    halt_at: dict[str, int] = field(default_factory=dict)
    halted: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    refusals: list[Refusal] = field(default_factory=list)
    # What is stated of a repository and its files in place of the truth, by the field's name.
    stated: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of_folder(cls, repo: str, folder: Path) -> HubServer:
        """A server of the files below `folder`."""
        found = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return cls(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in found})

    def __enter__(self) -> HubServer:
        server = self

        class Bound(_Handler):
            hub = server

        self._http = _Server(("127.0.0.1", 0), Bound)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def commit(self) -> str:
        """The commit of the files, which follows from their names and contents."""
        listing = [(name, hashlib.sha1(content).hexdigest()) for name, content in sorted(self.files.items())]
        return hashlib.sha1(json.dumps(listing).encode()).hexdigest()

    def refuse(
        self, part: str, status: int, headers: Mapping[str, str] | None = None, *, times: int | None = None
    ) -> None:
        """Answers requests for paths with `part` in them with `status`."""
        self.refusals.append(Refusal(part, status, times, headers or {}))

    def behave(self) -> None:
        """Ends everything that was told, and forgets what was counted."""
        for each in (self.refusals, self.instead, self.cut_at, self.halt_at, self.asked, self.sent, self.stated):
            each.clear()
        self.halted.clear()

    def count(self, part: str, method: str = "GET") -> int:
        """How many requests had `part` in their path."""
        return len(self.requests(part, method))

    def requests(self, part: str, method: str = "GET") -> list[Asked]:
        """The requests that had `part` in their path."""
        return [each for each in self.asked if part in each.path and each.method == method]

    def refusal(self, path: str) -> Refusal | None:
        """The refusal for a request of `path`, which uses up one of its times."""
        with self.lock:
            for each in self.refusals:
                if each.part in path and each.times != 0:
                    each.times = None if each.times is None else each.times - 1
                    return each
        return None

    def describe(self, name: str) -> dict[str, Any]:
        """A file as the Hub's listing of a folder has it."""
        content = self.files[name]
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def info(self, *, blobs: bool) -> dict[str, Any]:
        """The repository as the Hub's API describes it; `blobs` adds sizes and hashes."""
        siblings = []
        for name in sorted(self.files):
            entry = self.describe(name)
            sibling: dict[str, Any] = {"rfilename": name}
            if blobs:
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}
            siblings.append(sibling)
        self.misstate(siblings)
        sha = self.stated.get("sha", self.commit)
        return {"id": self.repo, "modelId": self.repo, "sha": sha, "siblings": siblings, "tags": []}

    def misstate(self, siblings: list[dict[str, Any]]) -> None:
        """Puts what is `stated` in place of the truth."""
        for sibling in siblings:
            for entry in (sibling, sibling.get("lfs", {})):
                entry.update({key: value for key, value in self.stated.items() if key in entry})


def git_hash(content: bytes) -> str:
    """The name that git has for a content, which is the Hub's ETag of a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A connection that a client keeps open does not hold the end of a test.
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that are killed in the middle are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests read `asked`."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.asked.append(Asked(self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        refusal = self.hub.refusal(path)
        api, file = API.fullmatch(path), RESOLVE.fullmatch(path)
        known = (None, "main", self.hub.commit)
        if refusal is not None:
            self.send(refusal.status, {}, refusal.headers)
        elif api and api["repo"] == self.hub.repo and api["revision"] in known:
            listing = [self.hub.describe(name) for name in sorted(self.hub.files)]
            self.send(200, listing if api["what"] == "tree" else self.hub.info(blobs="blobs" in url.query))
        elif file and file["repo"] == self.hub.repo and file["revision"] in known:
            self.send_file(file["file"])
        else:
            code = "RevisionNotFound" if self.hub.repo in path else "RepoNotFound"
            self.send(404, {"error": code}, {"X-Error-Code": code})

    def send(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_headers(
            status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        )
        if self.command == "GET":
            self.wfile.write(body)

    def send_headers(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_file(self, name: str) -> None:
        if name not in self.hub.files:
            self.send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit})
            return
        entry, content = self.hub.describe(name), self.hub.instead.get(name, self.hub.files[name])
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            etag = f'"{entry["lfs"]["oid"]}"'
            headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(entry["size"])}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if start and start >= len(content):
            self.send(416, {}, {"Content-Range": f"bytes */{len(content)}"})
            return
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_headers(206 if asked else 200, {**headers, "Content-Length": str(len(content) - start)})
        if self.command == "GET":
            self.send_content(name, content, start)

    def send_content(self, name: str, content: bytes, start: int) -> None:
        cut, halt = self.hub.cut_at.get(name), self.hub.halt_at.get(name)
        if halt is not None and start < halt:
            self.write(name, content[start:halt])
            start = halt
            self.hub.halted.set()
            self.hub.go_on.wait(STALL_S)
        self.write(name, content[start:cut])
        if cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def write(self, name: str, content: bytes) -> None:
        # Counted before, or who has all of it could look before it is counted.
        with self.hub.lock:
            self.hub.sent[name] += len(content)
        self.wfile.write(content)
        self.wfile.flush()
