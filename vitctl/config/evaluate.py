"""The config of `vitctl evaluate`."""

from dataclasses import dataclass

from vitctl.config.checks import Count, check_config, require
from vitctl.config.common import DataConfig, DeviceConfig, PrecisionConfig, WeightsConfig
from vitctl.config.option import option


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DeviceConfig, PrecisionConfig, DataConfig, WeightsConfig):
    split: str | None = option(None, "Split to evaluate on. Default: test, or else val.", metavar="NAME")
    batch: Count | None = option(
        None, "Batch size. Default: that of the evaluations during training, or else 64.", metavar="N"
    )
    crops: Count = option(1, "Average over 1, 5 or 10 crops; 10 are 5 and their mirror images.", metavar="1|5|10")
    labels: str | None = option(
        None,
        "Several correct labels per image, as in ImageNet-ReaL: names, or the model's numbers of classes.",
        metavar="FILE.json",
    )
    compare: str | None = option(
        None,
        "Compare with the result of another evaluation (--json) of the same images: a paired 95% interval.",
        metavar="FILE.json",
    )
    confusion: str | None = option(None, "Draw the confusion matrix.", metavar="FILE.png")

    def __post_init__(self) -> None:
        check_config(self)
        require(self.crops in (1, 5, 10), f"crops is {self.crops}; it must be 1, 5, or 10 (5 and their mirror images)")
