from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.training import TrainingFlags, run_on_devices, run_rows
from vitctl.config.train import PretrainConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.train.result import TrainResult


@command(PretrainConfig, "vitctl.workflows.pretrain:pretrain", TrainingFlags, run=run_on_devices)
def pretrain(result: "TrainResult") -> "list[Table]":
    """Train a model from scratch, with labels.

    Without --data, vitctl uses $VITCTL_DATA, or else ./data.h5, or else the embedded digits. Without --recipe, it
    chooses one by model and number of images, and prints which. Ctrl-C saves the run, and --resume continues it to the
    same end, byte for byte.

    Example: [bold]vitctl pretrain --model vit-s/16 --data photos/ --epochs 100[/bold]
    """
    return train_tables(result)


def train_tables(result: "TrainResult") -> "list[Table]":
    from vitctl.cli.console import facts_table
    from vitctl.probing.metrics import MAIN, describe_metrics

    what = "numbers" if result.task == "numbers" else f"{result.classes} classes"
    rows = run_rows(result, f"{result.data}, {what}")
    if result.tried:
        main = MAIN[result.task]
        tried = {lr: describe_metrics({main: score}, main) for lr, score in result.tried.items()}
        rows["tried"] = ", ".join(f"lr {lr}: {score.removeprefix('top-1 ')}" for lr, score in tried.items())
    rows["loss"] = f"{result.loss:.4f}"
    if result.top1 is not None and result.best_top1 is not None:
        top5 = f", top-5 {result.top5:.2%}" if result.classes > 5 else ""
        classes = join_shares(result.balanced, result.macro_f1)
        rows["val"] = f"top-1 {result.top1:.2%}{top5}{classes}, loss {result.val_loss:.4f}"
        classes = join_shares(result.best_balanced, result.best_macro_f1)
        rows["best"] = f"top-1 {result.best_top1:.2%}{classes} at step {result.best_step:,}"
    elif result.scores:
        rows["val"] = describe_metrics(result.scores)
        rows["best"] = f"{describe_metrics(result.best_scores, MAIN[result.task])} at step {result.best_step:,}"
    if result.weights:
        rows["weights"] = result.weights
    return [facts_table(rows)]


def join_shares(balanced: float | None, macro_f1: float | None) -> str:
    """None in a run of an older version."""
    return "" if balanced is None else f", balanced {balanced:.2%}, macro F1 {macro_f1:.2%}"
