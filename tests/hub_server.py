"""A Hugging Face Hub in miniature: the routes that `huggingface_hub` uses to fetch and to commit, on this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository.

    Args:
        branches: names to commits.
        commits: what each holds.
        private: whether only `Hub.token` may see it.
        gated: whether nobody may have its files.
    """

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        digest = hashlib.sha1(repr((sorted(files.items()), branch, len(self.commits))).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.branches[branch] = digest
        return digest

    def at(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    range: str | None
    token: str | None


class Refused(Exception):
    """An answer that is an error: a status, and the Hub's code for it."""


class Hub:
    """Serves `repos` until the `with` block ends.

    Attributes:
        repos: by `organisation/name`.
        token: the one that may write, and see private repositories.
        large: suffixes of the files that are kept in large file storage.
        cut: for a file name, after how many bytes its next transfers break off.
        requests: all so far.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.token = "hf_right"
        self.large = (".safetensors",)
        self.cut: dict[str, list[int]] = {}
        self.requests: list[Request] = []
        self.stored: dict[str, bytes] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def asked(self, method: str, part: str) -> list[Request]:
        return [request for request in self.requests if request.method == method and part in request.path]

    def answer(self, call: http.server.BaseHTTPRequestHandler) -> None:
        token = (call.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(call.path).path)
        self.requests.append(Request(call.command, path, call.headers.get("Range"), token))
        body = self._body(call)
        routes = {
            r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/(.+)/([^/]+)": self._file,
            r"GET /api/models/([^/]+/[^/]+)/tree/(.+)": self._tree,
            r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)": self._preupload,
            r"POST /api/models/([^/]+/[^/]+)/commit/(.+)": self._commit,
            r"POST /api/models/([^/]+/[^/]+)/branch/(.+)": self._branch,
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": lambda *_: self._json(call, {"errors": [], "warnings": []}),
            r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": self._batch,
            r"PUT /large/(\w+)": self._store,
        }
        try:
            for pattern, route in routes.items():
                if found := re.fullmatch(pattern, f"{call.command} {path}"):
                    return route(call, body, token, *found.groups())
            raise Refused(404, "NoSuchRoute")
        except Refused as refusal:
            status, code = refusal.args
            return self._json(call, {"error": code}, status=status, headers={"X-Error-Code": code})

    def _body(self, call: Any) -> bytes:
        if call.headers.get("Transfer-Encoding") != "chunked":
            return call.rfile.read(int(call.headers.get("Content-Length") or 0))
        body = b""
        while size := int(call.rfile.readline(), 16):
            body += call.rfile.read(size)
            call.rfile.readline()
        return body

    def _json(self, call: Any, content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(call, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def _send(self, call: Any, content: bytes, headers: dict[str, str], status: int = 200, cut: int | None = None):
        call.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            call.send_header(key, value)
        call.end_headers()
        if call.command != "HEAD":
            call.wfile.write(content[:cut])

    def _repo(self, name: str, token: str | None, *, write: bool = False) -> Repo:
        repo = self.repos.get(name)
        if repo is None or (repo.private and token is None):
            raise Refused(401 if token is None else 404, "RepoNotFound")
        if token != self.token and (write or (repo.private and token is not None)):
            raise Refused(403, "Forbidden")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.at(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound")
        return commit

    def _file(self, call: Any, _: bytes, token: str | None, name: str, revision: str, file: str) -> None:
        repo = self._repo(name, token)
        commit = self._commit_of(repo, revision)
        if repo.gated:
            raise Refused(403, "GatedRepo")
        if file not in repo.commits[commit]:
            raise Refused(404, "EntryNotFound")
        content, cuts = repo.commits[commit][file], self.cut.get(file)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        asked = re.fullmatch(r"bytes=(\d+)-", call.headers.get("Range") or "")
        cut = cuts.pop(0) if cuts and call.command == "GET" else None
        if asked is None:
            return self._send(call, content, headers, cut=cut)
        start = int(asked[1])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(call, content[start:], headers, 206, cut)

    def _tree(self, call: Any, _: bytes, token: str | None, name: str, revision: str) -> None:
        repo = self._repo(name, token)
        files = repo.commits[self._commit_of(repo, revision)]
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files.items()
        ]
        self._json(call, entries)

    def _create(self, call: Any, body: bytes, token: str | None) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if token != self.token:
            raise Refused(401 if token is None else 403, "Forbidden")
        status = 409 if name in self.repos else 200
        if status == 200:
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.repos[name] = Repo(private=private)
            self.repos[name].commit({".gitattributes": b""})
        self._json(call, {"url": f"{self.url}/{name}", "name": name}, status=status)

    def _branch(self, call: Any, _: bytes, token: str | None, name: str, branch: str) -> None:
        repo = self._repo(name, token, write=True)
        there = branch in repo.branches
        repo.branches.setdefault(branch, repo.branches["main"])
        self._json(call, {}, status=409 if there else 200)

    def _preupload(self, call: Any, body: bytes, token: str | None, name: str, revision: str) -> None:
        self._commit_of(self._repo(name, token, write=True), revision)
        self._json(
            call,
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(self.large) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            },
        )

    def _batch(self, call: Any, body: bytes, token: str | None, name: str) -> None:
        self._repo(name, token, write=True)
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self._json(call, {"transfer": "basic", "objects": objects})

    def _store(self, call: Any, body: bytes, _: str | None, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "WrongDigest")
        self.stored[oid] = body
        self._json(call, {})

    def _commit(self, call: Any, body: bytes, token: str | None, name: str, revision: str) -> None:
        repo = self._repo(name, token, write=True)
        files = dict(repo.commits[self._commit_of(repo, revision)])
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        proposed = "create_pr=1" in call.path
        commit = repo.commit(files, "refs/pr/1" if proposed else revision)
        link = {"pullRequestUrl": f"{self.url}/{name}/discussions/1"} if proposed else {}
        self._json(
            call, {"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{name}/commit/{commit}", **link}
        )
