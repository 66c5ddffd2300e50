"""A loopback server that speaks the Hub's API: search, repositories, trees, files with ranges and redirects, faults.

Large files are redirected to a second server, as the Hub does to its content network, so that tests see whether a token
leaks there. Every fault is asked for with `fail`, `cut`, `corrupt` ... and every request is written down.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

GOOD_TOKEN = "hf_goodgoodgoodgoodgood"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 4096
PAGE = 40


@dataclass
class Repo:
    """A repository: its files, and who may read it. `gated`: "" for all, "auto" for tokens that were granted access."""

    files: dict[str, bytes]
    gated: str = ""
    private: bool = False
    granted: bool = True
    downloads: int = 100
    likes: int = 10
    updated: str = "2026-01-02T03:04:05.000Z"
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    tags: tuple[str, ...] = ("gguf",)


@dataclass
class Fault:
    """For requests whose address holds `where`: answer with `status` as often as `times` says."""

    where: str
    status: int
    times: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What came in."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """The Hub and its content network on two loopback ports."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.cuts: list[int] = []
        self.corrupted: set[str] = set()
        self.ignores_ranges = False
        self.bytes_per_second = 0.0
        self.silence = 0.0
        """Seconds before any answer."""

        self.lies_about_size: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self._hub, self._network = _serve(self, _HubHandler), _serve(self, _NetworkHandler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def network(self) -> str:
        return f"http://127.0.0.1:{self._network.server_address[1]}"

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> Repo:
        self.repos[name] = Repo(dict(files), **options)
        return self.repos[name]

    def fail(self, where: str, status: int, times: int = 1, **headers: str) -> None:
        """Answer `status` to the next `times` requests whose address holds `where`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(where, status, times, named))

    def cut(self, *after: int) -> None:
        """Break the next connections of files after so many bytes."""
        self.cuts.extend(after)

    def asked(self, where: str) -> list[Request]:
        """Requests whose address holds `where`."""
        return [request for request in self.requests if where in request.path]

    def sent_tokens(self, server: str) -> set[str]:
        """Authorization headers that a server got."""
        return {r.headers.get("authorization", "") for r in self.requests if r.server == server} - {""}

    def blob(self, digest: str) -> tuple[str, bytes] | None:
        for repo in self.repos.values():
            for path, content in repo.files.items():
                if hashlib.sha256(content).hexdigest() == digest:
                    return path, content
        return None

    def take_fault(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.where in path:
                    fault.times -= 1
                    return fault
        return None

    def take_cut(self) -> int | None:
        with self.lock:
            return self.cuts.pop(0) if self.cuts else None

    def close(self) -> None:
        for server in (self._hub, self._network):
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


def _serve(hub: HubServer, handler: type[BaseHTTPRequestHandler]) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.hub = hub
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    kind = ""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def begin(self) -> bool:
        """Write the request down; True if a fault has answered it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.kind, self.command, self.path, headers))
        time.sleep(self.hub.silence)
        fault = self.hub.take_fault(self.path)
        if fault:
            self.answer(fault.status, b"no", fault.headers)
        return fault is not None

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, content: Any, headers: dict[str, str] | None = None) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_file(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        """A file or the part of it that is asked for, slow, cut or corrupted as the test wants."""
        if path in self.hub.corrupted:
            content = content[:-1] + bytes([content[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, len(content)
        if match and not self.hub.ignores_ranges:
            start = int(match[1])
            end = min(end, int(match[2]) + 1) if match[2] else end
            if start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.take_cut()
        self._pour(content[start : end if cut is None else min(end, start + cut)])
        if cut is not None:
            self.close_connection = True
            self.connection.close()

    def _pour(self, content: bytes) -> None:
        rate = self.hub.bytes_per_second
        step = max(1, int(rate / 50)) if rate else len(content) or 1
        for at in range(0, len(content), step):
            self.wfile.write(content[at : at + step])
            if rate:
                self.wfile.flush()
                time.sleep(step / rate)


class _NetworkHandler(_Handler):
    kind = "network"

    def do_GET(self) -> None:
        if self.begin():
            return
        found = self.hub.blob(self.path.rpartition("/")[2])
        if found:
            self.send_file(*found)
        else:
            self.answer(404, b"")

    def do_PUT(self) -> None:
        self.hub.requests.append(Request(self.kind, "PUT", self.path, {k.lower(): v for k, v in self.headers.items()}))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.uploads[self.path.rpartition("/")[2]] = content
        self.answer(200, b"", {"ETag": '"x"'})


class _HubHandler(_Handler):
    kind = "hub"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.begin():
            return
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        path = unquote(address.path)
        if path == "/api/models":
            self._search(query)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            if repo := self._repo(match[1], info=True):
                self.json(_info(match[1], repo))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if repo := self._repo(match[1], info=True):
                self._tree(match[1], repo, int(query.get("cursor", "0")))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repo := self._repo(match[1]):
                self._resolve(repo, match[3])
        elif match := re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            self.send_file(match[3], self.hub.repos[match[1]].files[match[3]])
        elif path == "/api/whoami-v2":
            self.json({"name": "somebody", "orgs": []})
        else:
            self.answer(404, b"")

    # -- reading -----------------------------------------------------------------------------------------------------

    def _repo(self, name: str, info: bool = False) -> Repo | None:
        """The repository, or None after an answer that says why not."""
        repo, token = self.hub.repos.get(name), self.headers.get("Authorization")
        if token is not None and token != f"Bearer {GOOD_TOKEN}":
            self.answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not token):
            status = 404 if token else 401
            self.answer(status, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repo.gated and not info and not token:
            self.answer(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif repo.gated and not info and not repo.granted:
            self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        else:
            return repo
        return None

    def _search(self, query: dict[str, str]) -> None:
        words = query.get("search", "").lower().split()
        found = [
            (name, repo)
            for name, repo in self.hub.repos.items()
            if all(word in name.lower() for word in words)
            and query.get("author", "") in ("", name.split("/")[0])
            and (not query.get("filter") or query["filter"] in repo.tags)
            and not repo.private
        ]
        keys = {"downloads": "downloads", "likes": "likes", "lastModified": "updated"}
        found.sort(key=lambda each: getattr(each[1], keys[query.get("sort", "downloads")]), reverse=True)
        self.json([_info(name, repo, brief=True) for name, repo in found[: int(query.get("limit", "1000"))]])

    def _tree(self, name: str, repo: Repo, cursor: int) -> None:
        items = [self._entry(path, content) for path, content in repo.files.items()]
        folders = {path.rpartition("/")[0] for path in repo.files} - {""}
        items += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        headers = {}
        if cursor + PAGE < len(items):
            address = f"{self.hub.endpoint}/api/models/{name}/tree/{COMMIT}?recursive=true&cursor={cursor + PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.json(items[cursor : cursor + PAGE], headers)

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.hub.lies_about_size.get(path, len(content))
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": _git_sha1(content)}
        if len(content) >= LARGE:
            digest = hashlib.sha256(content).hexdigest()
            entry |= {"lfs": {"oid": digest, "size": size, "pointerSize": 134}, "oid": "f" * 40}
        return entry

    def _resolve(self, repo: Repo, path: str) -> None:
        content = repo.files.get(path)
        if content is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        name = next(name for name, each in self.hub.repos.items() if each is repo)
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
        if len(content) >= LARGE:
            headers["Location"] = f"{self.hub.network}/blobs/{digest}"
            self.answer(302, b"", headers)
        else:
            headers["Location"] = f"/api/resolve-cache/models/{name}/{COMMIT}/{quote(path)}"
            self.answer(307, b"", headers)

    # -- writing -----------------------------------------------------------------------------------------------------

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.begin():
            return
        if self.headers.get("Authorization") != f"Bearer {GOOD_TOKEN}":
            self.answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            self.hub.repos.setdefault(name, Repo({}))
            self.json({"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif path.endswith("/preupload/main"):
            self.json({"files": [_preupload(file) for file in json.loads(content)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self.json({"transfer": "basic", "objects": [self._batch(each) for each in json.loads(content)["objects"]]})
        elif path.endswith("/commit/main"):
            lines = [json.loads(line) for line in content.splitlines()]
            self.hub.commits.extend(lines)
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            url = f"{self.hub.endpoint}/{name}/commit/{COMMIT}"
            self.json({"success": True, "commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self.answer(200, b"{}")

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.hub.network}/uploads/{asked['oid']}", "header": {}}
        return {"oid": asked["oid"], "size": asked["size"], "authenticated": True, "actions": {"upload": upload}}


def _preupload(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] >= LARGE else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _info(name: str, repo: Repo, brief: bool = False) -> dict[str, Any]:
    info = {
        "id": name,
        "private": repo.private,
        "gated": repo.gated or False,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "lastModified": repo.updated,
        "tags": [*repo.tags, *(f"license:{repo.card[key]}" for key in ("license",) if key in repo.card)],
    }
    return info if brief else {**info, "sha": COMMIT, "cardData": repo.card, "siblings": []}


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
