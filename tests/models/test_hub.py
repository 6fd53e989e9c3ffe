"""A server of weights that cannot be reached ends a command soon; one that is slow does not."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save

from vitctl.models.hub import WAIT

NAME = "timm:test_vit.r160_in1k"
PATIENCE = 300  # seconds after which it hangs


class Hub(BaseHTTPRequestHandler):
    """Answers with `status`, and to who asks for weights with `content` in pieces, `pause` seconds apart."""

    status, content, pause = 200, b"", 0.0

    def do_HEAD(self) -> None:
        self.send_response(self.status if self.path.endswith("/model.safetensors") else max(self.status, 404))
        for name, value in (("ETag", '"one"'), ("X-Repo-Commit", "0" * 40), ("Content-Length", len(self.content))):
            self.send_header(name, str(value))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if not self.path.endswith("/model.safetensors"):
            return
        piece = len(self.content) // 10 + 1
        for begin in range(0, len(self.content), piece):
            self.wfile.write(self.content[begin : begin + piece])
            time.sleep(self.pause)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(**options: Any) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (Hub,), options))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@contextmanager
def listening(answers: bool) -> Iterator[int]:
    """A port that accepts and never answers, or one that is closed."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if answers:
            port.listen(50)
        yield port.getsockname()[1]


@pytest.fixture
def fetched(vitctl: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(port: int, code: int = 0) -> Any:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hub"), "no_proxy": "127.0.0.1"}
        return vitctl(
            "interpolate-pos", "--from", NAME, "--res", "160", "--out", "w.safetensors", "--quiet", code=code, env=env,
            before=("timeout", str(PATIENCE)),
        )  # fmt: skip

    return run


@pytest.mark.parametrize(("server", "reason"), [
    (lambda: listening(True), f"no answer within {WAIT} s"), (lambda: listening(False), "refused"),
    (lambda: serving(status=503), "HTTP status 503"),
], ids=["silent", "closed", "overloaded"])  # fmt: skip
def test_a_server_that_cannot_be_reached_is_one_line(fetched: Callable[..., Any], server: Any, reason: str) -> None:
    with server() as port:
        answer = fetched(port, code=3)
    assert answer.err.splitlines() == [answer.error]
    assert f"{NAME}: its weights could not be downloaded: 127.0.0.1:{port} cannot be reached" in answer.error
    assert reason in answer.error


def test_a_slow_download_is_not_cut(fetched: Callable[..., Any], tmp_path: Path) -> None:
    content = save(timm.create_model("test_vit").state_dict())
    with serving(content=content, pause=0.7) as port:
        fetched(port)
    assert (tmp_path / "w.safetensors").exists()
    with listening(False) as port:  # what is in the cache needs no server
        (tmp_path / "w.safetensors").unlink()
        fetched(port)
