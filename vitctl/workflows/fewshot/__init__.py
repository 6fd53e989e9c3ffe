"""`vitctl fewshot`: the scores of probes that are fitted to frozen features of a few images per class."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np

from vitctl.config.fewshot import FewshotConfig, with_protocol
from vitctl.inspection.charts import draw_shots
from vitctl.io.outputs import check_output
from vitctl.probing.draws import draw_member_orders, draw_orders, take_shots
from vitctl.probing.fewshot import ProbeTask, ProbeTrial, confidence_interval, count_constant_features, run_trial
from vitctl.probing.metrics import MAIN, describe_metrics
from vitctl.probing.targets import TargetTask, TargetTrial, run_target_trial
from vitctl.reporting import Reporter, SilentReporter, format_count
from vitctl.workflows.fewshot.rows import ProbeRows, check_probes, check_shots, choose_probe_rows, with_default_shots
from vitctl.workflows.fewshot.sources import FeatureSource, sources_of

CONFUSED = 5  # pairs of classes in the result
MOST_SEEDS = 100  # of each result that are listed one by one
AXES = {
    "classes": ("shots per class", "top-1 accuracy"),
    "sets": ("shots per class", "mAP"),
    "numbers": ("shots in all", "R²"),
}


@dataclass(frozen=True)
class SeedResult:
    seed: int
    top1: float | None  # None of sets and numbers
    l2: float | None  # strength of the regularization; C for logreg
    indices: list[int]  # rows of the train split
    scores: dict[str, float]  # of sets and numbers

    @property
    def main(self) -> float:
        """What compares models."""
        return next(iter(self.scores.values())) if self.top1 is None else self.top1


@dataclass(frozen=True)
class ProbeResult:
    weights: str
    probe: str
    shots: int | None  # None: all
    mean: float  # top-1; of sets mAP, of numbers R²
    ci95: float | None
    optimistic: bool  # the strength was chosen on the test images
    trials: int  # seeds, or episodes
    seeds: list[SeedResult]  # of episodes, the first
    scores: dict[str, float]  # of sets and numbers, the means over the seeds


@dataclass(frozen=True)
class Difference:
    """The mean score of `weights` minus that of `against`, on the same draws."""

    weights: str
    against: str
    probe: str
    shots: int | None
    mean: float
    ci95: float | None


@dataclass(frozen=True)
class Closer:
    """Accuracy per class, of sets its average precision, of one model and probe with the most shots, over all seeds."""

    weights: str
    probe: str
    shots: int | None
    per_class: dict[str, float]
    confused: list[dict[str, str | float]]


@dataclass(frozen=True)
class FewshotResult:
    data: str
    data_digest: str
    weights_digests: dict[str, str]
    split: str  # the test images
    pictures: int
    task: str
    classes: int
    protocol: str
    ways: int  # classes of an episode; 0 if all classes are told apart
    width: dict[str, int]
    results: list[ProbeResult]
    differences: list[Difference]
    closer: list[Closer]
    short: dict[str, int]  # classes with fewer images than the most shots
    plot: str | None
    elapsed_s: float


def fewshot(config: FewshotConfig, reporter: Reporter | None = None, *, plot: str | None = None) -> FewshotResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    check_output(plot, config.data, config.features, ending=".png")
    config = with_protocol(config)
    data, sources = sources_of(config, reporter)
    rows = choose_probe_rows(config, sources[0].file, reporter)
    check_probes(config, rows, reporter)
    warn_trained(sources, rows, reporter)
    config = with_default_shots(config, rows, reporter)
    short = check_shots(config, rows, reporter)
    trials = dict(run_probes(config, sources, rows, reporter))
    results = [result(config, key, each, rows) for key, each in trials.items()]
    if plot:
        title = data if rows.kind == "numbers" else f"{data}, {format_count(len(rows.classes), 'class')}"
        draw_shots([vars(each) for each in results], Path(plot), title, *AXES[rows.kind])
    most = None if None in config.shots else max(shots for shots in config.shots if shots)
    return FewshotResult(
        data=data, data_digest=sources[0].file.origin.data_digest,
        weights_digests={each.name: each.file.origin.weights_digest for each in sources},
        split=rows.test, pictures=len(rows.test_rows), task=rows.kind, classes=len(rows.classes),
        protocol=config.protocol, ways=config.ways if config.draws == "episodes" else 0,
        width={each.name: each.file.splits[rows.train][-1] for each in sources},
        results=results, differences=list(pair_differences(trials)), closer=[
            closer(key, each, rows) for key, each in trials.items()
            if key[2] == most and rows.classes and config.draws != "episodes"
        ],
        short=short, plot=plot, elapsed_s=time.perf_counter() - start_time,
    )  # fmt: skip


Key = tuple[str, str, int | None]  # weights, probe, shots
Trial = ProbeTrial | TargetTrial


def run_probes(
    config: FewshotConfig, sources: list[FeatureSource], rows: ProbeRows, reporter: Reporter
) -> Iterator[tuple[Key, list[Trial]]]:
    probes = dict(label_probes(config))
    total = len(sources) * len(probes) * sum(seeds_of(config, shots) for shots in config.shots)
    with reporter.progress("probes", total, "fits") as bar:
        for source in sources:
            task = rows.task(source.file, source.base)
            for (label, (probe, settings)), shots in product(probes.items(), config.shots):
                trials: list[Trial] = []
                for seed in range(seeds_of(config, shots)):
                    run = run_trial if isinstance(task, ProbeTask) else run_target_trial
                    trials.append(run(task, probe, settings, shots, seed))  # type: ignore[arg-type]
                    score = describe_metrics({MAIN[rows.kind]: trials[-1].main})
                    bar.advance(1, probe=label, shots=shots or "all", score=score)
                yield (source.name, label, shots), trials
            warn_constant(config, source, task, reporter)


def label_probes(config: FewshotConfig) -> Iterator[tuple[str, tuple[str, FewshotConfig]]]:
    """The probes as they are named in the results; knn of several k is several probes."""
    for probe in config.probes:
        for k in config.k if probe == "knn" else (config.k[0],):
            yield f"knn, k={k}" if probe == "knn" and len(config.k) > 1 else probe, (probe, replace(config, k=(k,)))


def seeds_of(config: FewshotConfig, shots: int | None) -> int:
    """One, if all images are used: then seeds do not differ."""
    return 1 if shots is None else config.seeds  # of episodes, their number


def warn_constant(
    config: FewshotConfig, source: FeatureSource, task: ProbeTask | TargetTask, reporter: Reporter
) -> None:
    fewest = min((shots for shots in config.shots if shots), default=None)
    if isinstance(task, ProbeTask):
        orders = draw_orders(task.labels, task.classes, 0)
    else:
        orders = draw_member_orders(task.members, 0)
    same = count_constant_features(task.train[take_shots(orders, fewest)])
    if same:
        reporter.warn(
            f"{source.name}: {format_count(same, 'feature')} of {task.train.shape[1]} constant over the fewest shots; "
            "the prediction is unreliable for test images that differ in them"
        )


def warn_trained(sources: list[FeatureSource], rows: ProbeRows, reporter: Reporter) -> None:
    """Warn if the model was trained on the split that the test images are held out from."""
    for source in sources:
        if rows.test == rows.train and source.trained_on == source.file.origin.data_digest:
            reporter.warn(f"{source.name}: was trained on the test images, so its accuracy is too high")


def result(config: FewshotConfig, key: Key, trials: list[Trial], rows: ProbeRows) -> ProbeResult:
    weights, probe, shots = key
    values = [each.main for each in trials]
    seeds = [
        SeedResult(each.seed, each.top1, each.strength, rows.rows[each.rows].tolist(), each.scores)
        for each in trials[:MOST_SEEDS]
    ]
    is_optimistic = probe == "lsr-grid" and config.select == "test"
    scores = {name: float(np.mean([each.scores[name] for each in trials])) for name in trials[0].scores}
    mean, spread = float(np.mean(values)), confidence_interval(values)
    return ProbeResult(weights, probe, shots, mean, spread, is_optimistic, len(trials), seeds, scores)


def pair_differences(trials: dict[Key, list[Trial]]) -> Iterator[Difference]:
    for (one, mine), (other, theirs) in combinations(trials.items(), 2):
        if one[1:] == other[1:]:
            pairs = [each.main - against.main for each, against in zip(mine, theirs, strict=True)]
            yield Difference(one[0], other[0], *one[1:], float(np.mean(pairs)), confidence_interval(pairs))


def closer(key: Key, trials: list[Trial], rows: ProbeRows) -> Closer:
    names, count = rows.classes, len(rows.classes)
    if rows.kind == "sets":
        means = np.mean([each.per_class for each in trials if isinstance(each, TargetTrial)], 0)
        precisions = {name: float(mean) for name, mean in zip(names, means, strict=True) if not np.isnan(mean)}
        return Closer(*key, precisions, [])
    table = np.zeros((count, count))  # [true class, predicted class]
    for each in trials:
        if isinstance(each, ProbeTrial):
            np.add.at(table, (rows.truth, each.guesses), 1)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    per_class = {name: float(shares[row, row]) for row, name in enumerate(names) if table[row].any()}
    wrong = np.where(np.eye(count, dtype=bool), 0, shares)
    worst = [np.unravel_index(index, wrong.shape) for index in np.argsort(-wrong, axis=None)[:CONFUSED]]
    confused: list[dict[str, str | float]] = [
        {"true": names[row], "predicted": names[column], "share": float(wrong[row, column])}
        for row, column in worst
        if wrong[row, column]
    ]
    return Closer(*key, per_class, confused)
