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
    --recipe, vitctl uses AdamW with settings that follow from the number of images; for official .npz weights, and from
    100,000 images on, SGD as in the paper.

    Example: [bold]vitctl finetune --from timm:vit_small_patch16_dinov3 --data photos/[/bold]
    """
    return train_tables(result)
