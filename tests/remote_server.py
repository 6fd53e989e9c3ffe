"""A server on the loopback that answers as a web server does, or as the hub of data sets, and drops connections.

It serves the files of a folder with ranges and ETags. A data set of the hub is the folder `datasets/OWNER/NAME`, or
`datasets/OWNER/NAME@refs/convert/parquet` with the copy that the hub converts; `card.json` is what its card says.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMITS = {"main": "a" * 40, "refs/convert/parquet": "b" * 40}


@dataclass
class Loopback:
    """What the server does, which a test may change at any time, and what it was asked."""

    folder: Path
    cut_every: int = 0  # of so many answers, one is cut
    ranges: bool = True
    etags: bool = True
    login: str | None = None  # the Authorization header that every request needs
    status: int | None = None  # of all answers, such as 503
    before: Callable[[int], None] | None = None  # called with the number of the request
    port: int = 0
    requests: int = 0
    cuts: int = 0
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hub(self, cache: Path) -> dict[str, str]:
        """The environment of a command whose hub this is."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "no_proxy": "127.0.0.1"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Loopback

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """Where the hub's client asks about paths."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.count()
        match = re.fullmatch(r"/api/datasets/(\w+/[\w-]+)/paths-info/(.+)", unquote(self.path))
        home = self.home(*match.groups()) if match else None
        if home is None:
            return self.refuse(404)
        found = [describe_file(home, home / path) for path in body["paths"] if (home / path).is_file()]
        self.send_json([{"type": "file", "path": each["rfilename"], "oid": each["blobId"], **each} for each in found])

    def do_GET(self) -> None:
        number, path = self.count(), unquote(self.path.partition("?")[0])
        if self.state.before:
            self.state.before(number)
        if self.state.login and self.headers.get("Authorization") != self.state.login:
            return self.refuse(401)
        if self.state.status:
            return self.refuse(self.state.status)
        if path.startswith("/api/datasets/"):
            return self.answer_hub(path.removeprefix("/api/datasets/"))
        if match := re.fullmatch(r"/datasets/(\w+/[\w-]+)/resolve/([^/]+|refs/convert/parquet)/(.+)", path):
            home = self.home(match[1], match[2])
            return self.send_file(home / match[3], number) if home else self.refuse(404)
        self.send_file(self.state.folder / path.lstrip("/"), number)

    def count(self) -> int:
        with self.state.lock:
            self.state.requests += 1
            self.state.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            return self.state.requests

    def home(self, name: str, revision: str) -> Path | None:
        """The folder of a data set at a branch or a commit."""
        branch = next((branch for branch, commit in COMMITS.items() if commit == revision), revision)
        path = self.state.folder / "datasets" / (name if branch == "main" else f"{name}@{branch}")
        return path if path.is_dir() else None

    def answer_hub(self, path: str) -> None:
        if match := re.fullmatch(r"(\w+/[\w-]+)/tree/([^/]+|refs/convert/parquet)(?:/(.+))?", path):
            return self.list_folder(self.home(match[1], match[2]), match[3] or "")
        name, _, revision = path.partition("/revision/")
        branch = next((branch for branch, commit in COMMITS.items() if commit == revision), revision or "main")
        home = self.home(name, branch)
        if home is None:
            exists = self.home(name, "main") is not None
            return self.refuse(404, "RevisionNotFound" if exists else "RepoNotFound")
        files = sorted(path for path in home.rglob("*") if path.is_file() and path.name != "card.json")
        card = home / "card.json"
        self.send_json({
            "id": name, "sha": COMMITS[branch], "siblings": [describe_file(home, file) for file in files],
            "cardData": json.loads(card.read_text()) if card.exists() else None})  # fmt: skip

    def list_folder(self, home: Path | None, folder: str) -> None:
        if home is None or not (home / folder).is_dir():
            return self.refuse(404, "EntryNotFound")
        self.send_json([
            {"type": "file" if path.is_file() else "directory", "path": path.relative_to(home).as_posix(),
             "oid": version_of(path), "size": path.stat().st_size} for path in sorted((home / folder).iterdir())
        ])  # fmt: skip

    def send_json(self, values: Any) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, file: Path, number: int) -> None:
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        size, version = file.stat().st_size, version_of(file)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if self.state.ranges else None
        start, end = (int(match[1]), min(int(match[2] or size) + 1, size)) if match else (0, size)
        if match and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            start = end = size
        else:
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if self.state.etags:
            self.send_header("ETag", f'"{version}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        is_cut = bool(self.state.cut_every) and number % self.state.cut_every == 0 and end - start > 1
        with open(file, "rb") as stream:
            stream.seek(start)
            content = stream.read((end - start) // (2 if is_cut else 1))
        with self.state.lock:  # before the client has it all, and looks
            self.state.cuts += is_cut
            self.state.sent += len(content)
        self.wfile.write(content)
        if is_cut:
            self.wfile.flush()
            self.close_connection = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


def describe_file(home: Path, file: Path) -> dict[str, Any]:
    return {"rfilename": file.relative_to(home).as_posix(), "size": file.stat().st_size, "blobId": version_of(file)}


def version_of(file: Path) -> str:
    status = file.stat()
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:40]


@contextmanager
def serve_folder(folder: Path, **options: Any) -> Iterator[Loopback]:
    state = Loopback(folder, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
