"""A server of weights that cannot be reached ends a command soon; one that is slow does not."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file

from tests.models.hub import serving
from vitctl.models.hub import WAIT

NAME = "timm:test_vit"
TAG = "r160_in1k"  # timm's default for it
REPOSITORY = f"timm/test_vit.{TAG}"
PATIENCE = 300  # seconds after which it hangs


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
    def run(port: int, code: int = 0, name: str = NAME) -> Any:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hub"), "no_proxy": "127.0.0.1"}
        return vitctl(
            "interpolate-pos", "--from", name, "--res", "160", "--out", "w.safetensors", "--quiet", code=code, env=env,
            before=("timeout", str(PATIENCE)),
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    (folder / REPOSITORY).mkdir(parents=True)
    tensors = timm.create_model("test_vit").state_dict()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / REPOSITORY / "model.safetensors"
    )
    return folder


@pytest.mark.parametrize(("server", "reason"), [
    (lambda: listening(True), f"no answer within {WAIT} s"), (lambda: listening(False), "refused"),
    (lambda: serving_port(Path(), status=503), "HTTP status 503"),
], ids=["silent", "closed", "overloaded"])  # fmt: skip
def test_a_server_that_cannot_be_reached_is_one_line(fetched: Callable[..., Any], server: Any, reason: str) -> None:
    with server() as port:
        answer = fetched(port, code=3)
    assert answer.err.splitlines() == [answer.error]
    assert f"{NAME}: its weights could not be downloaded: 127.0.0.1:{port} cannot be reached" in answer.error
    assert reason in answer.error


@contextmanager
def serving_port(folder: Path, **options: Any) -> Iterator[int]:
    with serving(folder, **options) as server:
        yield server.server_port


def test_a_download_is_slow_and_the_next_one_is_cached(fetched: Callable[..., Any], hub: Path, tmp_path: Path) -> None:
    with serving_port(hub, pause=0.7) as port:
        fetched(port)
    first = (tmp_path / "w.safetensors").read_bytes()
    with listening(False) as port:  # what is in the cache needs no server
        (tmp_path / "w.safetensors").unlink()
        fetched(port)
    assert (tmp_path / "w.safetensors").read_bytes() == first


def test_a_download_that_is_cut_ends_in_the_same_bytes(fetched: Callable[..., Any], hub: Path, tmp_path: Path) -> None:
    with serving(hub) as server:
        fetched(server.server_port)
    whole = (tmp_path / "w.safetensors").read_bytes()
    for path in (tmp_path / "w.safetensors", *(tmp_path / "hub").rglob("*")):
        if path.is_file() or path.is_symlink():
            path.unlink()
    with serving(hub, cuts=[100_000]) as server:
        fetched(server.server_port)
        hub_class: Any = server.RequestHandlerClass
    assert (hub_class.cuts, sum("GET /timm" in each for each in hub_class.asked)) == ([], 2)
    assert (tmp_path / "w.safetensors").read_bytes() == whole


@pytest.mark.parametrize(("status", "reason"), [
    (401, "its authors grant access on request); accept their license on the hub's page, and set HF_TOKEN"),
    (404, "the hub has no such repository); check the network"),
])  # fmt: skip
def test_repositories_that_are_gated_or_missing_are_one_line(
    fetched: Callable[..., Any], hub: Path, status: int, reason: str
) -> None:
    with serving_port(Path("nowhere") if status == 404 else hub, status=status) as port:
        answer = fetched(port, code=3)
    assert answer.err.splitlines() == [answer.error]
    assert f"{NAME}: its weights could not be downloaded" in answer.error
    assert reason in answer.error


def test_names_that_do_not_exist_are_answered_with_those_that_do(fetched: Callable[..., Any]) -> None:
    answer = fetched(1, code=2, name="timm:vit_smal_patch16_dinov3")
    assert "timm has no such model; did you mean 'vit_small_patch16_dinov3'" in answer.error
    answer = fetched(1, code=3, name="timm:vit_small_patch16_dinov3.lvd")
    assert "timm has no weights 'lvd' for it, but lvd1689m" in answer.error
