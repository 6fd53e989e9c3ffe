"""What the tests of commands that take weights need."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from vitctl.cli import make_app
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.config.train import PretrainConfig, RunOptions
from vitctl.io.weights import About, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.workflows.patchify import patchify
from vitctl.workflows.pretrain import pretrain
from vitctl.workflows.train.result import TrainResult


@pytest.fixture
def tiny() -> Weights:
    """Three by three patches, three classes; so small that it is quick, and nowhere zero."""
    model = create_model("vit-mu/16", height=48, width=48, classes=3)
    random = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(each.shape, generator=random) for name, each in collect_tensors(model).items()}
    return Weights(model.spec, tensors, About("vitctl", "a test", class_names=("cat", "dog", "owl")))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must fail, in this process, because starting many takes long; its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITCTL_FROM", raising=False)

    def run(*arguments: str | Path, code: int) -> str:
        result = CliRunner().invoke(make_app(), list(map(str, arguments)))
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in result.stderr
        return line

    return run


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process and in `tmp_path`; it must end with this code."""
    monkeypatch.chdir(tmp_path)
    for name in ("VITCTL_FROM", "VITCTL_DATA", "RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(make_app(), list(map(str, arguments)))
        assert result.exit_code == code, f"{result.exit_code}: {result.output}"
        return result

    return run


@pytest.fixture(scope="session")
def blots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 16x16 images: three colors that noise hides a little, forty of each in train, ten in val."""
    root, random = tmp_path_factory.mktemp("blots") / "blots", np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for channel, name in enumerate(("ant", "bee", "cow")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 200, (16, 16, 3))
                pixels[..., channel] += 12
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def blots_h5(blots: Path) -> Path:
    out = blots.with_name("blots.h5")
    patchify(PatchifyConfig(source=str(blots), out=str(out), res=Res(16), patch=8, fit="crop", workers=1))
    return out


@pytest.fixture
def data(tmp_path: Path, blots_h5: Path) -> str:
    """The blots as data.h5, where every command finds them."""
    return shutil.copy(blots_h5, tmp_path / "data.h5").name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are the same to the last bit only for the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(blots_h5: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of vit-mu/8 at 16x16 on the blots that has learned something; its paths are absolute."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    config = PretrainConfig(
        model="vit-mu/8", data=str(blots_h5), recipe="digits", steps=60, batch=16, precision="float32", eval_every=20
    )
    return pretrain(config, RunOptions(out=str(out)))


@pytest.fixture
def newest(trained: TrainResult, tmp_path: Path) -> str:
    """The same, as the newest run of `runs/`."""
    assert trained.run
    shutil.copytree(trained.run, tmp_path / "runs" / "one")
    (tmp_path / "runs" / "LATEST").write_text("one\n")
    return "runs/one"
