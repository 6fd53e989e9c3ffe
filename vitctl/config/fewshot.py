"""The config of `vitctl fewshot`, and the protocols of others as rows."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from vitctl.config.checks import Count, Range, Share, check_config, require
from vitctl.config.common import DataConfig
from vitctl.config.features import PIXELS, FeaturesConfig
from vitctl.config.option import Partial, option, setting, subconfig, with_named
from vitctl.errors import ConfigError, did_you_mean

SHOTS = (1, 5, 10, 25)
Probe = Literal["lsr", "lsr-grid", "logreg", "logreg-val", "knn", "ncm", "ncm-l2n", "ncm-un"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Hyperparameters of the probes."""

    l2: Annotated[float, Range(0, 1e30, above=True)] = setting(
        2.0**10, "L2 strength of lsr"
    )  # big_vision configs/common_fewshot.py
    k: tuple[Count, ...] = setting((20,), "neighbors of knn; each of several is measured")
    temperature: Annotated[float, Range(0, 1000, above=True)] = setting(0.07, "of the votes of knn")
    select: Literal["shots", "test"] = setting(
        "shots", "images that choose the strength of lsr-grid; test overestimates the accuracy"
    )
    draws: Literal["big_vision", "dinov3", "episodes"] = setting(
        "big_vision", "whose images a seed draws; episodes are tasks of a few random classes, as SimpleShot's"
    )
    ways: Annotated[int, Range(2, 100_000)] = setting(5, "classes of an episode")
    queries: Count = setting(15, "test images per class of an episode")


@dataclass(frozen=True, kw_only=True)
class FewshotConfig(Partial, ProbeConfig, DataConfig):
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
        "lsr (the paper's), lsr-grid (its strength is chosen on the shots), logreg, knn, ncm, ...; repeatable.",
        "probe", metavar="NAME", default="lsr",
    )  # fmt: skip
    protocol: str = option(
        "", "As others measure: big_vision, dinov3/knn, dinov3/logreg, or simpleshot. Other options override it.",
        metavar="NAME",
    )  # fmt: skip
    seeds: Annotated[int, Range(1, 10_000)] = option(3, "How many times the shots are drawn.", metavar="N")
    test: str | None = option(
        None, "Split to test on. Default: test, or else val, or else a part of train.", "split", metavar="NAME"
    )
    train: str = setting("train", "split that the shots are drawn from")
    test_share: Share = setting(0.25, "share of each class that is held out where there is no split to test on")
    base: str | None = setting(None, "data, or a feature file, whose train images' mean the ncm probes subtract")
    extract: FeaturesConfig = subconfig(
        FeaturesConfig, "precision", "device", "cache", "mean", "std", "eval_crop", "allow_missing"
    )

    def __post_init__(self) -> None:
        check_config(self)
        if self.protocol and self.protocol not in PROTOCOLS:
            raise ConfigError(f"--protocol {self.protocol}: is unknown; {did_you_mean(self.protocol, PROTOCOLS)}")
        require(bool(self.probes and self.k), "no probe is given; write --probe lsr")
        is_stated = self.extract.mean or self.extract.std
        is_unread = is_stated and (self.features is not None or set(self.sources) == {PIXELS})
        require(not is_unread, "--mean and --std are for weights: neither feature files nor pixels are normalized")
        require(self.extract.pool != "none", "pool=none keeps a vector for each patch; a probe needs one per image")


@dataclass(frozen=True)
class Protocol:
    source: str
    eval_crop: str  # a name in vitctl.config.eval_crop
    settings: dict[str, Any] = field(default_factory=dict)


PROTOCOLS = {
    "big_vision": Protocol(
        "big_vision configs/common_fewshot.py", "big_vision/few-shot",
        {"probes": ("lsr",), "l2": 2.0**10, "shots": SHOTS, "seeds": 3},
    ),
    "dinov3/knn": Protocol(
        "dinov3 eval/knn.py", "dino",
        {"probes": ("knn",), "k": (10, 20, 100, 200), "temperature": 0.07, "draws": "dinov3", "shots": (None,)},
    ),
    "dinov3/logreg": Protocol(
        "dinov3 eval/log_regression.py", "whole", {"probes": ("logreg-val",), "draws": "dinov3", "shots": (None,)}
    ),
    "simpleshot": Protocol(
        "arXiv 1911.04623, src/train.py", "whole",
        {"probes": ("ncm-un", "ncm-l2n", "ncm"), "draws": "episodes", "shots": (1, 5), "seeds": 10_000},
    ),
}  # fmt: skip


def with_protocol(config: FewshotConfig) -> FewshotConfig:
    """The config with the settings of its protocol where it names none of its own."""
    if not config.protocol:
        return config
    row = PROTOCOLS[config.protocol]
    merged = with_named(FewshotConfig(**row.settings), config)
    return replace(merged, extract=replace(merged.extract, eval_crop=merged.extract.eval_crop or row.eval_crop))
