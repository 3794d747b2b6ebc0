"""A small HTTP server whose manners can be chosen."""

from __future__ import annotations

import http.server
import re
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Served:
    """A file.

    Args:
        content: all of it.
        etag: sent with it; None for none.
        ranges: whether parts can be asked for.
        broken: after how many bytes of a response the line breaks; one for each request to come, None for not at all.
        status: instead of the file, or None for the file; one for each request to come.
        kind: its Content-Type.
        length: whether Content-Length is sent.
    """

    content: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    broken: list[int | None] = field(default_factory=list)
    status: list[int | None] = field(default_factory=list)
    kind: str = "application/octet-stream"
    length: bool = True


class Server:
    """Serves `files` by their path until the `with` block ends; `requests` are path and Range of all so far."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path.lstrip("/"), wanted))
        file = self.files.get(request.path.lstrip("/"))
        status = 404 if file is None else file.status.pop(0) if file.status else None
        if file is None or status is not None:
            request.send_error(status or 404)
            return
        start, total = 0, len(file.content)
        condition = request.headers.get("If-Range")
        if wanted and file.ranges and condition in (None, file.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= total:
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            request.send_response(200)
        if file.length:
            request.send_header("Content-Length", str(total - start))
        if file.etag:
            request.send_header("ETag", file.etag)
        request.send_header("Content-Type", file.kind)
        request.end_headers()
        stop = file.broken.pop(0) if file.broken else None
        request.wfile.write(file.content[start:][:stop])
