"""A hub on this machine, for tests: listings, redirects to a store, ranges, and every way of going wrong.

It speaks what the hub's library and ours ask: /api/models/REPO, /REPO/resolve/COMMIT/PATH, which redirects to the store
under another host name, as the real one does.
"""

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeRepo:
    """files: path -> bytes. listed: what the listing says instead, of some. revisions: by branch or tag."""

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    commit: str = COMMIT
    gated: bool = False
    private: bool = False
    in_git: frozenset[str] = frozenset()  # paths that git keeps itself, without LFS
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    extra: list[dict[str, Any]] = field(default_factory=list)
    revisions: dict[str, "FakeRepo"] = field(default_factory=dict)

    def at(self, revision: str) -> "FakeRepo | None":
        if revision in ("", "main", self.commit):
            return self
        by_commit = {one.commit: one for one in self.revisions.values()}
        return self.revisions.get(revision) or by_commit.get(revision)

    def listing(self, name: str) -> dict[str, Any]:
        siblings = [{**self._sibling(path, data), **self.listed.get(path, {})} for path, data in self.files.items()]
        return {
            "id": name,
            "sha": self.commit,
            "gated": "manual" if self.gated else False,
            "cardData": self.card,
            "siblings": siblings + self.extra,
        }

    def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob}
        if path not in self.in_git:
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"size": len(data), "sha256": sha, "pointerSize": 134}
        return entry


@dataclass
class FakeHub:
    """What it serves, how it misbehaves, and what was asked. Statuses are used up, one a request."""

    repos: dict[str, FakeRepo] = field(default_factory=dict)
    token: str | None = None  # demanded for gated and private repositories
    api_statuses: list[int] = field(default_factory=list)
    store_statuses: list[int] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)  # bytes after which a connection is cut, one a request
    drop_always_after: int | None = None
    wrong_bytes: set[str] = field(default_factory=set)  # paths whose last byte is another
    short_by: dict[str, int] = field(default_factory=dict)  # paths that are shorter in the store
    has_ranges: bool = True
    pause: float = 0.0  # seconds before each 64 kB
    retry_after: str | None = None
    api_body: bytes | None = None  # instead of a listing
    api_headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0  # bytes of files
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def seen(self, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path has `part`."""
        return [headers for _, path, headers in self.requests if part in path]


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def random_cuts(seed: int, count: int, limit: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(limit) for i in range(count)]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that go away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.requests.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/store/([^/]+/[^/]+)/(.+)", path):
            self._store(match[1], match[2], urlsplit(self.path).query.removeprefix("at="))
        else:
            self._plain(404, b"")

    def _api(self, rest: str) -> None:
        name, _, revision = rest.partition("/revision/")
        status = self._next(self.hub.api_statuses)
        if status is not None:
            self._plain(status, b"{}")
            return
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_authorised()):
            self._plain(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif (there := repo.at(revision)) is None:
            self._plain(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            body = json.dumps(there.listing(name)).encode() if self.hub.api_body is None else self.hub.api_body
            self._plain(200, body, self.hub.api_headers)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        repo = None if repo is None else repo.at(revision)
        if repo is None or path not in repo.files:
            self._plain(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif repo.gated and not self._is_authorised():
            self._plain(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            port = self.server.server_address[1]
            sha = hashlib.sha256(repo.files[path]).hexdigest()
            headers = {
                "Location": f"http://localhost:{port}/store/{name}/{quote(path)}?at={repo.commit}",
                "X-Repo-Commit": repo.commit,
                "X-Linked-Etag": f'"{sha}"',
                "X-Linked-Size": str(len(repo.files[path])),
            }
            self._plain(302, b"", headers)

    def _store(self, name: str, path: str, commit: str) -> None:
        hub, repo = self.hub, self.hub.repos[name].at(commit)
        assert repo is not None
        status = self._next(hub.store_statuses)
        if status is not None:
            self._plain(status, b"", {} if hub.retry_after is None else {"Retry-After": hub.retry_after})
            return
        data = repo.files[path]
        data = data[: len(data) - hub.short_by.get(path, 0)]
        if path in hub.wrong_bytes:
            data = data[:-1] + bytes([data[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", ""))
        if match is None or not hub.has_ranges:
            self._send(200, data, {})
            return
        start, stop = int(match[1]), min(int(match[2] or len(data) - 1) + 1, len(data))
        if start >= len(data):
            self._plain(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        else:
            self._send(206, data[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self._next(self.hub.drops)
        cut = self.hub.drop_always_after if cut is None else cut
        for start in range(0, len(data), 65536):
            piece = data[start : start + 65536]
            if cut is not None and start + len(piece) > cut:
                piece = piece[: max(cut - start, 0)]
            time.sleep(self.hub.pause)
            with self.hub.lock:  # before the client can have it, and look
                self.hub.sent += len(piece)
            try:
                self.wfile.write(piece)
            except OSError:
                return
            if cut is not None and start + len(piece) >= cut:
                self.close_connection = True
                return

    def _plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _next(self, values: list[int]) -> int | None:
        with self.hub.lock:
            return values.pop(0) if values else None
