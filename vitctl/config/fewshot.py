"""The config of `vitctl fewshot`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Range, Share, check_config, require
from vitctl.config.common import DataConfig
from vitctl.config.features import PIXELS, FeaturesConfig
from vitctl.config.option import option, setting, subconfig

SHOTS = (1, 5, 10, 25)
Probe = Literal["lsr", "lsr-grid", "logreg", "knn", "ncm"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Hyperparameters of the probes."""

    l2: Annotated[float, Range(0, 1e30, above=True)] = setting(
        2.0**10, "L2 strength of lsr"
    )  # big_vision configs/common_fewshot.py
    k: Count = setting(20, "neighbors of knn")
    temperature: Annotated[float, Range(0, 1000, above=True)] = setting(0.07, "of the votes of knn")
    select: Literal["shots", "test"] = setting(
        "shots", "images that choose the strength of lsr-grid; test overestimates the accuracy"
    )


@dataclass(frozen=True, kw_only=True)
class FewshotConfig(ProbeConfig, DataConfig):
    shots: tuple[Count | None, ...] = option(
        (),
        "Labeled images per class (of numbers in all), or all; repeatable. Default: 1, 5, 10, 25.",
        metavar="N",
        none="all",
    )
    sources: tuple[str, ...] = option(
        (),
        "Weights, as in every command; or the baselines pixels and random:MODEL. Repeat it to compare them.",
        "from", metavar="WEIGHTS",
    )  # fmt: skip
    features: str | None = option(None, "A feature file, instead of weights and data.", metavar="FILE")
    probes: tuple[Probe, ...] = option(
        ("lsr",),
        "lsr (the paper's), lsr-grid (its strength is chosen on the shots), logreg, knn, ncm; repeatable.",
        "probe", metavar="NAME", default="lsr",
    )  # fmt: skip
    seeds: Annotated[int, Range(1, 10_000)] = option(3, "How many times the shots are drawn.", metavar="N")
    test: str | None = option(
        None, "Split to test on. Default: test, or else val, or else a part of train.", "split", metavar="NAME"
    )
    train: str = setting("train", "split that the shots are drawn from")
    test_share: Share = setting(0.25, "share of each class that is held out where there is no split to test on")
    extract: FeaturesConfig = subconfig(FeaturesConfig, "precision", "device", "cache", "mean", "std", "allow_missing")

    def __post_init__(self) -> None:
        check_config(self)
        require(bool(self.probes), "no probe is given; write --probe lsr")
        is_stated = self.extract.mean or self.extract.std
        is_unread = is_stated and (self.features is not None or set(self.sources) == {PIXELS})
        require(not is_unread, "--mean and --std are for weights: neither feature files nor pixels are normalized")
        require(self.extract.pool != "none", "pool=none keeps a vector for each patch; a probe needs one per image")
