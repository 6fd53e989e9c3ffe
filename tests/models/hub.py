"""A server on the loopback that answers as the hub of pretrained models does, for the real client.

Files are those of a folder: `FOLDER/timm/NAME.TAG/model.safetensors`. It knows HEAD and GET with ranges, ETags and
commits, 401 and 404, connections that are cut, and uploads.
"""

import base64
import hashlib
import json
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

    def do_POST(self) -> None:
        """Creates a repository, says how files are to be sent, or writes those of a commit."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append(f"POST {self.path}")
        if self.status != 200 or self.headers.get("Authorization") != "Bearer token":
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        name = (re.match(r"/api/models/(.+)/(?:preupload|commit)/", self.path) or ["", ""])[1]
        page = f"http://{self.headers['Host']}/me/flowers"
        reply: dict[str, Any] = {"url": page, "name": "me/flowers", "id": "1"}
        if "/preupload/" in self.path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            reply = {"files": [{"path": each["path"], **how} for each in json.loads(body)["files"]]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    target = self.folder / name / line["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(line["value"]["content"]))
            reply = {"success": True, "commitOid": COMMIT, "commitUrl": f"{page}/commit/{COMMIT}", "hookOutput": ""}
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

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
