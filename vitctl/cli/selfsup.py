from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.training import TrainingFlags, run_on_devices, run_rows
from vitctl.config.train import SelfsupConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.train.result import SelfsupResult


@command(SelfsupConfig, "vitctl.workflows.selfsup:selfsup", TrainingFlags, run=run_on_devices)
def selfsup(result: "SelfsupResult") -> "list[Table]":
    """Train a model from scratch, without labels, by predicting hidden patches.

    The paper hides half of the patches and predicts the mean color of each. mae hides three quarters, does not compute
    them, and predicts their pixels. A folder of images is enough. Where there are labels, a few of them measure the
    model during training.

    Example: [bold]vitctl selfsup --model vit-s/16 --data photos/ --objective mae[/bold]
    """
    from vitctl.cli.console import facts_table

    objective = {"objective": f"{result.objective}, {result.hidden} of {result.patches} patches hidden"}
    rows = run_rows(result, result.data, objective)
    rows["loss"] = f"{result.loss:.4f}" + ("" if result.val_loss is None else f", on val {result.val_loss:.4f}")
    if result.val_top1 is not None:
        rows["hidden patches"] = f"{result.val_top1:.2%} correct on val"
    if result.probe_top1 is not None:
        rows["probe"] = f"top-1 {result.probe_top1:.2%} on val with {result.probe_shots} shots per class, frozen"
    if result.weights and result.pictures:
        rows |= {"weights": result.weights, "images": result.pictures}
    return [facts_table(rows)]
