"""What the tests of commands that take weights need."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vitctl.cli import app
from vitctl.io.weights import About, Weights
from vitctl.models.create import create_model, named_tensors


@pytest.fixture
def tiny() -> Weights:
    """Three by three patches, three classes; so small that it is quick, and nowhere zero."""
    model = create_model("vit-mu/16", height=48, width=48, classes=3)
    random = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(each.shape, generator=random) for name, each in named_tensors(model).items()}
    return Weights(model.spec, tensors, About("vitctl", "a test", class_names=("cat", "dog", "owl")))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must fail, in this process, because starting many takes long; its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITCTL_FROM", raising=False)

    def run(*arguments: str | Path, code: int) -> str:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in result.stderr
        return line

    return run
