"""A command is made from its config: a flag is written once."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from vitctl.cli.boundary import Boundary
from vitctl.cli.command import command
from vitctl.cli.training import TrainingFlags
from vitctl.config.checks import Range
from vitctl.config.option import option, setting
from vitctl.config.recipes import recipe
from vitctl.config.train import FinetuneConfig, PretrainConfig


@dataclass(frozen=True, kw_only=True)
class SharpConfig(PretrainConfig):
    """The trainer's config with two more fields: nothing else is edited."""

    rho: Annotated[float, Range(0, 1)] = option(0.05, "Radius of SAM.", metavar="RHO")
    ascent: Literal["once", "twice"] = setting("once", "how often SAM ascends")


Run = Callable[..., tuple[Any, str, int]]


@pytest.fixture
def run() -> Run:
    """Runs a command of a config, and gives the config that its workflow gets, what was printed, and the exit code."""

    def invoke(kind: type, *words: str) -> tuple[Any, str, int]:
        configs: list[Any] = []
        app = typer.Typer(cls=Boundary, rich_markup_mode=None)

        @command(kind, "none:none", TrainingFlags, run=lambda load, config, flags, reporter: configs.append(config))
        def train(result: Any) -> list[Any]:
            """Train."""
            return []

        app.command("train")(train)
        app.callback()(lambda: None)
        answer = CliRunner().invoke(app, ["train", *words], env={"COLUMNS": "200"})
        return (configs or [None])[0], answer.output, answer.exit_code

    return invoke


def test_a_new_field_is_a_flag_with_help_and_range(run: Run) -> None:
    assert run(SharpConfig, "--rho", "0.2")[0].rho == 0.2
    assert run(SharpConfig, "--set", "rho=0.3")[0].rho == 0.3
    _, text, _ = run(SharpConfig, "--help")
    assert "--rho" in text
    assert "Radius of SAM." in text
    for words in (("--rho", "2"), ("--set", "rho=2")):
        _, text, code = run(SharpConfig, *words)
        assert (text.strip(), code) == ("error: rho is 2.0; it must lie between 0 and 1", 2)


def test_a_new_setting_is_set_checked_and_listed(run: Run) -> None:
    assert run(SharpConfig, "--set", "ascent=twice")[0].ascent == "twice"
    _, text, code = run(SharpConfig, "--set", "ascent=thrice")
    assert code == 2
    assert "did you mean 'twice'" in text
    _, text, _ = run(SharpConfig, "--set", "help", "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    assert rows["ascent"] == {
        "name": "ascent", "type": "once|twice", "default": "once", "help": "how often SAM ascends"}  # fmt: skip
    assert rows["optim.lr"]["type"] == "float"
    assert "--ascent" not in run(SharpConfig, "--help")[1]


def test_every_setting_has_help(run: Run) -> None:
    for kind in (SharpConfig, FinetuneConfig):
        rows = json.loads(run(kind, "--set", "help", "--json")[1])
        assert [row["name"] for row in rows if not row["help"]] == []


def test_only_what_was_given_changes_the_recipe(run: Run) -> None:
    config, _, _ = run(PretrainConfig, "--lr", "0.5", "--steps", "3")
    assert config.named == {"optim", "steps"}
    base = recipe("small").config
    made = config.over(base)
    assert (made.optim.lr, made.optim.weight_decay, made.steps, made.epochs) == (0.5, base.optim.weight_decay, 3, None)
    assert run(PretrainConfig)[0].named == set()
    sharp = run(SharpConfig, "--rho", "0.2", "--steps", "3")[0].over(base)  # a recipe does not know the new field
    assert (sharp.rho, sharp.ascent, sharp.steps, sharp.batch) == (0.2, "once", 3, base.batch)


def test_switches_choices_and_lists(run: Run) -> None:
    config, _, _ = run(
        FinetuneConfig, "--keep-head", "--lr", "0.1,0.2", "--mean", "0.5", "--res", "192x256", "--from", "w.npz"
    )
    assert (config.keep_head, config.lrs, config.mean, str(config.res)) == ("always", (0.1, 0.2), (0.5,), "192x256")
    assert config.source == "w.npz"
    assert run(FinetuneConfig)[0].named == set()
    for words, message in (
        (("--lr", "fast"), "--lr fast: expected a number"),
        (("--steps", "1_0"), "--steps 1_0: expected a whole number"),
        (("--res", "big"), "resolution 'big' is not understood"),
    ):
        _, text, code = run(FinetuneConfig, *words)
        assert code == 2
        assert message in text
