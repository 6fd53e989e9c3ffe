"""A server on the loopback that answers as the hub of pretrained models does, for the real client.

Files are those of a folder: `FOLDER/timm/NAME.TAG/model.safetensors`. It knows HEAD and GET with ranges, ETags and
commits, 401 and 404, and connections that are cut.
"""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40
MISSING = {401: ("GatedRepo", "Access to this model is restricted."), 404: ("RepoNotFound", "Repository not found")}


class Hub(BaseHTTPRequestHandler):
    folder = Path()
    status = 200  # of all answers
    pause = 0.0  # seconds between pieces
    cuts: list[int] = []  # noqa: RUF012 - bytes after which the next downloads are cut
    asked: list[str] = []  # noqa: RUF012 - "GET PATH range"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        file, start = self.answer()
        if file is None:
            return
        content = file.read_bytes()[start:]
        most = self.cuts.pop(0) if self.cuts else len(content)
        piece = len(content) // 10 + 1
        for begin in range(0, min(most, len(content)), piece):
            self.wfile.write(content[begin : min(begin + piece, most)])
            time.sleep(self.pause)
        if most < len(content):
            self.close_connection = True
            self.connection.close()

    def answer(self) -> tuple[Path | None, int]:
        """Sends status and headers; returns the file and the first byte to send."""
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        match = re.fullmatch(r"/(.+)/resolve/[^/]+/(.+?)(?:\?.*)?", self.path)
        file = self.folder / match[1] / match[2] if match else None
        exists = file is not None and file.is_file()
        status = self.status if self.status != 200 or exists else 404
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(start[1]) if start else 0
        self.send_response(206 if status == 200 and start else status)
        if status in MISSING:
            code, text = MISSING[status]
            if match and (self.folder / match[1]).is_dir() and status == 404:
                code, text = "EntryNotFound", "Entry not found"
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", text)
        size = file.stat().st_size if exists and file else 0
        if status == 200 and file:
            self.send_header("ETag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin if status == 200 else 0))
        self.end_headers()
        return (file, begin) if status == 200 else (None, 0)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[ThreadingHTTPServer]:
    """`server.server_port` is its port, `server.RequestHandlerClass.asked` what was asked for."""
    kind = type("Hub", (Hub,), {"folder": folder, "cuts": [], "asked": []} | options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
