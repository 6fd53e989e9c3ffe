"""What `vitctl fewshot` measures."""

from dataclasses import dataclass, field
from typing import Literal

from vitctl.config.checks import at_least, fraction, one_of, require
from vitctl.config.features import FeaturesConfig

SHOTS = (1, 5, 10, 25)
PROBES = ("lsr", "lsr-grid", "logreg", "knn", "ncm")


@dataclass(frozen=True)
class FewshotConfig:
    sources: tuple[str, ...] = ()  # weights, pixels or random:MODEL; the newest run if none
    data: str | None = None
    features: str | None = None  # a feature file, in place of weights and data
    shots: tuple[int | None, ...] = ()  # the usual ones, as far as there are pictures; None among them: all
    seeds: int = 3
    probes: tuple[str, ...] = ("lsr",)
    l2: float = 1024.0  # of lsr
    k: int = 20  # of knn
    temperature: float = 0.07
    select: Literal["shots", "test"] = "shots"  # which pictures choose lsr-grid's strength; test is too good to be true
    train: str = "train"
    test: str | None = None  # test, else val, else a part of train that is held out
    test_share: float = 0.25  # of each class, where it is held out
    extract: FeaturesConfig = field(default_factory=FeaturesConfig)

    def __post_init__(self) -> None:
        at_least("seeds", self.seeds, 1)
        for shots in self.shots:
            at_least("shots", shots, 1)
        for probe in self.probes:
            one_of("probe", probe, PROBES)
        require(bool(self.probes), f"no probe is given; write --probe {PROBES[0]}")
        require(self.l2 > 0, f"l2 is {self.l2}; it must be above 0")
        require(self.temperature > 0, f"temperature is {self.temperature}; it must be above 0")
        at_least("k", self.k, 1)
        one_of("select", self.select, ("shots", "test"))
        fraction("test_share", self.test_share)
        require(self.extract.pool != "none", "pool=none gives a vector for each patch; a probe wants one for a picture")
