from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.pretrain import train_tables
from vitctl.cli.training import TrainingFlags, run_on_devices
from vitctl.config.train import FinetuneConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.train.result import TrainResult


@command(FinetuneConfig, "vitctl.workflows.finetune:finetune", TrainingFlags, run=run_on_devices)
def finetune(result: "TrainResult") -> "list[Table]":
    """Fine-tune weights for other classes, and at a higher resolution.

    The head is a new one unless --keep-head is given; positions are interpolated as in the paper's code. Without
    --recipe, vitctl uses SGD as in the paper, for a number of steps that depends on the number of images.

    Example: [bold]vitctl finetune --from weights.npz --data flowers/ --res 384 --lr 0.003,0.01,0.03[/bold]
    """
    return train_tables(result)
