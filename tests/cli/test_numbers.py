"""Numbers on the command line that are none, out of proportion, or in digits that only Python takes."""

import inspect
import typing
from collections.abc import Callable

import pytest

from vitctl.cli import COMMANDS, load_command

LR = "it must be above 0 and at most 1,000"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pretrain --lr inf", f"optim.lr is inf; {LR}"),
        ("pretrain --lr 1e309", f"optim.lr is inf; {LR}"),
        ("pretrain --lr nan", f"optim.lr is nan; {LR}"),
        ("pretrain --set optim.weight_decay=nan", "optim.weight_decay is nan; it must lie between 0 and 1,000"),
        ("pretrain --set augment.mixup=inf", "augment.mixup is inf; it must lie between 0 and 1,000"),
        ("pretrain --seed -1", "seed is -1; it must lie between 0 and 4,294,967,295"),
        ("pretrain --set optim.lr=1_0", "--set optim.lr=1_0: expected a number"),
        ("pretrain --set batch=１０", "--set batch=１０: expected a whole number"),
        ("pretrain --micro-batch ٣", "micro-batch '٣' is not understood; write auto, or a number of images"),
        ("selfsup --ratio nan", "masking.ratio is nan; it must be above 0 and under 1"),
        ("study data-size --seeds 10000000000 --dry-run", "seeds is 10000000000; it must lie between 1 and 100"),
        ("study data-size --budget nan --dry-run", "budget is nan; it must be above 0 and at most 1,000,000"),
        ("fewshot --shots 10000000000", "shots is 10000000000; it must lie between 1 and 1,000,000"),
        ("patchify digits --workers 5000", "workers is 5000; it must lie between 1 and 1,024"),
        (
            "patchify digits --shards 4 --shard ３",
            "--shard '３' is not understood; write index, or the number of a shard",
        ),
        ("patchify digits --split val=0.1_0", "--split 'val=0.1_0': 0.1_0 is not a number"),
    ],
)
def test_out_of_range_is_refused_with_the_range(refused: Callable[..., str], line: str, message: str) -> None:
    assert refused(*line.split(), code=2) == f"error: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pretrain --lr 1_000", "--lr 1_000: expected a number"),
        ("pretrain --steps 1_0", "--steps 1_0: expected a whole number"),
        ("selfsup --probe １０", "--probe １０: expected a whole number"),
        ("predict --top ٣ x.png", "--top ٣: expected a whole number"),
        ("fewshot --shots 1٠", "--shots 1٠: expected a whole number, or all"),
        ("finetune --lr 0.1,1_0", "--lr 0.1,1_0: expected a number"),
    ],
)
def test_other_digits_are_refused(refused: Callable[..., str], line: str, message: str) -> None:
    assert refused(*line.split(), code=2) == f"error: {message}"


def test_every_rate_of_a_grid_has_the_range(refused: Callable[..., str], newest: str, data: str) -> None:
    assert refused("finetune", "--lr", "0.1,inf", code=2) == f"error: lrs is inf; {LR}"


def test_no_number_is_read_by_typer() -> None:
    """It reads with int() and float()."""
    for command in (load_command(name) for names in COMMANDS.values() for name in names):
        for name, parameter in inspect.signature(command).parameters.items():
            kind, *_ = typing.get_args(parameter.annotation) or (parameter.annotation,)
            assert not {int, float} & {kind, *typing.get_args(kind)}, f"{command.__name__}: {name}"
