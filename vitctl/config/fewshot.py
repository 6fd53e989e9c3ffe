"""What `vitctl fewshot` measures."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vitctl.config.checks import Count, Range, Share, check_numbers, one_of, require
from vitctl.config.features import PIXELS, FeaturesConfig

SHOTS = (1, 5, 10, 25)
PROBES = ("lsr", "lsr-grid", "logreg", "knn", "ncm")


@dataclass(frozen=True)
class FewshotConfig:
    sources: tuple[str, ...] = ()  # weights, pixels or random:MODEL; the newest run if none
    data: str | None = None
    features: str | None = None  # a feature file, in place of weights and data
    shots: tuple[Count | None, ...] = ()  # the usual ones, as far as there are images; None among them: all
    seeds: Annotated[int, Range(1, 10_000)] = 3
    probes: tuple[str, ...] = ("lsr",)
    l2: Annotated[float, Range(0, 1e30, above=True)] = 1024.0  # of lsr
    k: Count = 20  # of knn
    temperature: Annotated[float, Range(0, 1000, above=True)] = 0.07
    select: Literal["shots", "test"] = "shots"  # which images choose lsr-grid's strength; test is too good to be true
    train: str = "train"
    test: str | None = None  # test, else val, else a part of train that is held out
    test_share: Share = 0.25  # of each class, where it is held out
    extract: FeaturesConfig = field(default_factory=FeaturesConfig)

    def __post_init__(self) -> None:
        check_numbers(self)
        for probe in self.probes:
            one_of("probe", probe, PROBES)
        require(bool(self.probes), f"no probe is given; write --probe {PROBES[0]}")
        one_of("select", self.select, ("shots", "test"))
        stated = self.extract.mean or self.extract.std
        is_unread = stated and (self.features is not None or set(self.sources) == {PIXELS})
        require(not is_unread, "--mean and --std are for weights: neither feature files nor pixels are normalized")
        require(self.extract.pool != "none", "pool=none gives a vector for each patch; a probe wants one for an image")
