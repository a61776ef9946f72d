"""A Hub on this machine: the part of its HTTP API that its client asks when a repository is made, written and read.

Made after what huggingface_hub 2.4 sends and expects (`_commit_api.py`, `lfs.py`, `file_download.py`, `hf_api.py`):
small texts travel in the commit, other files through Git LFS's batch or, with `xet`, through a Xet store, all by the
digests that the client has taken.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

from tests.support.xet_store import XetStore

TOKEN = "hf_" + "stand" * 5
TEXTS = (".md", ".json", ".yaml", ".txt", ".gitattributes")
"""Files that are no LFS objects."""


@dataclass
class Repository:
    private: bool = False
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.revisions.get(revision)


@dataclass
class StandIn:
    """What it holds and how it behaves.

    Attributes:
        tokens: token -> owners to whose repositories it may write.
        breaks: downloads of LFS files that break off in their middle, one after another.
        spoils: whether a byte of every LFS file changes on its way.
        xet: where files travel that are no small texts; None: through Git LFS.
        down: status with which everything is answered; 0: as it should be.
        asked: (method, path) of every request.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, tuple[str, ...]] = field(default_factory=lambda: {TOKEN: ("anna",)})
    gated: set[str] = field(default_factory=set)
    xet: XetStore | None = None
    breaks: int = 0
    spoils: bool = False
    down: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repositories[repository]
        return found.commits[found.revisions[revision]]


class _Answer(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


def _is_lfs(name: str) -> bool:
    return not name.endswith(TEXTS)


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    # ---- plumbing

    def _handle(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.hub.down:
                raise _Answer(self.hub.down)
            for (method, pattern), answer in ROUTES.items():
                if method in (self.command, "ANY") and (found := re.fullmatch(pattern, path)):
                    answer(self, body, **found.groupdict())
                    return
            raise _Answer(404, "", f"no {self.command} {path}")
        except _Answer as wrong:
            headers = {"X-Error-Code": wrong.code, "X-Error-Message": wrong.message}
            self._send(b"{}", wrong.status, {k: v for k, v in headers.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _owners(self) -> tuple[str, ...] | None:
        """Of the token that came along; None without one."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.tokens:
            raise _Answer(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _may_write(self, owner: str) -> None:
        owners = self._owners()
        if owners is None:
            raise _Answer(401, "", "Invalid username or password.")
        if owner not in owners:
            raise _Answer(403, "", f"You don't have the rights to create a model under the namespace {owner}")

    def _read(self, name: str, revision: str) -> tuple[Repository, str]:
        found, owners = self.hub.repositories.get(name), self._owners()
        if found is None or (found.private and name.partition("/")[0] not in (owners or ())):
            raise _Answer(404 if owners is not None else 401, "RepoNotFound", "Repository not found")
        if name in self.hub.gated:
            raise _Answer(403, "GatedRepo", f"Access to model {name} is restricted")
        commit = found.commit_of(revision)
        if commit is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, commit

    # ---- what it answers

    def whoami(self, body: bytes) -> None:
        owners = self._owners()
        if owners is None:
            raise _Answer(401, "", "Invalid username or password.")
        token = {"displayName": "of the tests", "role": "write", "createdAt": "2026-01-01T00:00:00.000Z"}
        told = {"type": "user", "id": "0" * 24, "name": owners[0], "fullname": owners[0].title(), "isPro": False}
        self._json({**told, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})

    def create(self, body: bytes) -> None:
        told = json.loads(body)
        owner = told.get("organization") or next(iter(self._owners() or [""]))
        name = f"{owner}/{told['name']}"
        self._may_write(owner)
        if name in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
            return
        self.hub.repositories[name] = Repository(told.get("visibility") == "private" or bool(told.get("private")))
        self._json({"url": f"{self.hub.url}/{name}", "id": name, "name": name})

    def validate(self, body: bytes) -> None:
        told = json.loads(body)
        front = re.match(r"---\n(.*?)\n---\n", told["content"], re.S)
        found = yaml.safe_load(front[1]) if front else {}
        wrong = [f'"{key}" must be a string' for key in ("license", "library_name", "pipeline_tag")
                 if key in found and not isinstance(found[key], str)]  # fmt: skip
        wrong += [] if isinstance(found.get("tags", []), list) else ['"tags" must be an array']
        for model in found.get("model-index", []):
            wrong += [f'"model-index[0].results" of {m}' for m in model["results"]
                      if not {"task", "dataset", "metrics"} <= set(m)]  # fmt: skip
        self._json({"errors": [{"message": message} for message in wrong], "warnings": []}, 400 if wrong else 200)

    def info(self, body: bytes, name: str, revision: str = "main") -> None:
        found, commit = self._read(name, revision or "main")
        siblings = []
        for path, content in found.commits[commit].items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": _blob(content)}
            if _is_lfs(path):
                entry["lfs"] = {"size": len(content), "sha256": _sha(content), "pointerSize": 130}
            siblings.append(entry)
        self._json({"id": name, "modelId": name, "sha": commit, "private": found.private, "siblings": siblings})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        found, commit = self._read(name, revision)
        entries = []
        for path, content in found.commits[commit].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
            if _is_lfs(path):
                entry["lfs"] = {"oid": _sha(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self._may_write(name.partition("/")[0])
        self._read(name, revision)
        files = [
            {"path": f["path"], "uploadMode": "lfs" if _is_lfs(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def batch(self, body: bytes, name: str) -> None:
        self._may_write(name.partition("/")[0])
        objects = []
        for told in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{told['oid']}", "header": {}}}
            objects.append({**told, **({} if told["oid"] in self.hub.objects else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def xet_access(self, body: bytes, name: str, kind: str, revision: str) -> None:
        self._may_write(name.partition("/")[0]) if kind == "write" else self._read(name, revision)
        if self.hub.xet is None:
            raise _Answer(404, "", "no Xet here")
        told = self.hub.xet.access
        names = {"casUrl": "X-Xet-Cas-Url", "accessToken": "X-Xet-Access-Token", "exp": "X-Xet-Token-Expiration"}
        self._send(json.dumps(told).encode(), 200, {names[key]: str(value) for key, value in told.items()})

    def store(self, body: bytes, oid: str) -> None:
        if _sha(body) != oid:
            raise _Answer(400, "", "the content has another digest")
        self.hub.objects[oid] = body
        self._send(b"")

    def commit(self, body: bytes, name: str, revision: str) -> None:
        self._may_write(name.partition("/")[0])
        found, before = self._read(name, revision)
        files = dict(found.commits[before])
        for line in body.splitlines():
            told = json.loads(line)
            value = told["value"]
            if told["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif told["key"] == "lfsFile":
                if self.hub.xet is not None and value["oid"] in self.hub.xet.hashes():
                    self.hub.objects[value["oid"]] = self.hub.xet.content(value["oid"], value["size"])
                if value["oid"] not in self.hub.objects:
                    raise _Answer(400, "", f"no object {value['oid']} was uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
        made = hashlib.sha1(body + before.encode()).hexdigest()
        found.commits[made] = files
        found.revisions[revision] = made
        url = f"{self.hub.url}/{name}/commit/{made}"
        self._json({"success": True, "commitOid": made, "commitUrl": url, "hookOutput": ""})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        found, commit = self._read(name, revision)
        content = found.commits[commit].get(path)
        if content is None:
            raise _Answer(404, "EntryNotFound", "Entry not found")
        lfs = _is_lfs(path)
        etag = _sha(content) if lfs else _blob(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if lfs:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{etag}"'}
        if self.hub.xet is not None and etag in (hashes := self.hub.xet.hashes()):
            route = f"{self.hub.url}/api/models/{name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": hashes[etag], "X-Xet-Refresh-Route": route}
        if lfs and self.hub.spoils:
            content = bytes([content[0] ^ 1]) + content[1:]
        begin = int(asked[1]) if (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) else 0
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        part = content[begin:]
        if self.command == "GET" and lfs and self.hub.breaks and len(part) > 1:
            self.hub.breaks -= 1
            self.send_response(206 if begin else 200)
            for key, value in {"Content-Length": str(len(part)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self._send(part, 206 if begin else 200, headers)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    """The name that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPOSITORY = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES: dict[tuple[str, str], Any] = {
    ("GET", r"/api/whoami-v2"): _Handler.whoami,
    ("POST", r"/api/repos/create"): _Handler.create,
    ("POST", r"/api/validate-yaml"): _Handler.validate,
    ("GET", rf"/api/models/{_REPOSITORY}/tree/(?P<revision>[\w.-]+)"): _Handler.tree,
    ("GET", rf"/api/models/{_REPOSITORY}(?:/revision/(?P<revision>[\w.-]+))?"): _Handler.info,
    ("POST", rf"/api/models/{_REPOSITORY}/preupload/(?P<revision>[\w.-]+)"): _Handler.preupload,
    ("POST", rf"/api/models/{_REPOSITORY}/commit/(?P<revision>[\w.-]+)"): _Handler.commit,
    ("GET", rf"/api/models/{_REPOSITORY}/xet-(?P<kind>read|write)-token/(?P<revision>[\w.-]+)"): _Handler.xet_access,
    ("POST", rf"/{_REPOSITORY}\.git/info/lfs/objects/batch"): _Handler.batch,
    ("PUT", r"/lfs/(?P<oid>\w+)"): _Handler.store,
    ("ANY", rf"/{_REPOSITORY}/resolve/(?P<revision>[\w.-]+)/(?P<path>.+)"): _Handler.resolve,
}


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """One that listens until the end."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
