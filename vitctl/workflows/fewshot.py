"""`vitctl fewshot`: the accuracy of probes that are fitted to frozen features of a few images per class."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from vitctl.config.features import PIXELS, FeaturesConfig
from vitctl.config.fewshot import SHOTS, FewshotConfig
from vitctl.config.res import Res
from vitctl.errors import DataError, UsageError
from vitctl.inspection.charts import draw_shots
from vitctl.io.feature_file import FeatureFile
from vitctl.io.outputs import check_output
from vitctl.io.patch_file import PatchFile
from vitctl.probing.draws import Ints, draw_orders, split_by_class, take_shots
from vitctl.probing.fewshot import (
    ProbeTask,
    ProbeTrial,
    confidence_interval,
    count_constant_features,
    run_trial,
)
from vitctl.reporting import Reporter, SilentReporter, format_count
from vitctl.workflows.features import RANDOM, extract_features, extractor_of, features_size, open_source_weights
from vitctl.workflows.inputs.data import choose_data
from vitctl.workflows.inputs.samples import find_held_out
from vitctl.workflows.inputs.weights import data_of_run

CONFUSED = 5  # pairs of classes in the result
HELD_OUT_SEED = 0  # the test images are the same for every seed of the shots


@dataclass(frozen=True)
class SeedResult:
    seed: int
    top1: float
    l2: float | None  # strength of the regularization; C for logreg
    indices: list[int]  # rows of the train split


@dataclass(frozen=True)
class ProbeResult:
    weights: str
    probe: str
    shots: int | None  # None: all
    mean: float
    ci95: float | None
    optimistic: bool  # the strength was chosen on the test images
    seeds: list[SeedResult]


@dataclass(frozen=True)
class Difference:
    """The mean accuracy of `weights` minus that of `against`, on the same draws."""

    weights: str
    against: str
    probe: str
    shots: int | None
    mean: float
    ci95: float | None


@dataclass(frozen=True)
class Closer:
    """Accuracy per class of one model and probe with the most shots, over all seeds."""

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
    classes: int
    width: dict[str, int]
    results: list[ProbeResult]
    differences: list[Difference]
    closer: list[Closer]
    short: dict[str, int]  # classes with fewer images than the most shots
    plot: str | None
    elapsed_s: float


@dataclass(frozen=True)
class FeatureSource:
    """The features of one model."""

    name: str
    file: FeatureFile
    trained_on: str = ""  # digest of the training data


@dataclass(frozen=True)
class ProbeRows:
    """The rows to sample shots from, and the rows to test probes on."""

    train: str
    rows: Ints  # labeled rows of the train split
    test: str
    test_rows: Ints  # labeled rows of the test split
    labels: Ints  # of `rows`
    truth: Ints  # of `test_rows`
    classes: tuple[str, ...]

    def task(self, file: FeatureFile) -> ProbeTask:
        train = file.features(self.train)[self.rows]
        test = file.features(self.test)[self.test_rows]
        for values in (train, test):
            if values.ndim != 2:
                raise DataError(f"{file.path}: has one vector per patch; a probe needs one per image (features --pool)")
            if not np.isfinite(values).all():
                raise DataError(f"{file.path}: has features that are not finite; extract them with --precision float32")
        return ProbeTask(train, self.labels, test, self.truth, len(self.classes))


def fewshot(config: FewshotConfig, reporter: Reporter | None = None, *, plot: str | None = None) -> FewshotResult:
    reporter, start_time = reporter or SilentReporter(), time.perf_counter()
    check_output(plot, config.data, config.features, ending=".png")
    data, sources = sources_of(config, reporter)
    rows = choose_probe_rows(config, sources[0].file, reporter)
    warn_trained(sources, rows, reporter)
    config = with_default_shots(config, rows, reporter)
    short = check_shots(config, rows, reporter)
    trials = dict(run_probes(config, sources, rows, reporter))
    results = [result(config, key, each, rows) for key, each in trials.items()]
    if plot:
        title = f"{data}, {format_count(len(rows.classes), 'class')}"
        draw_shots([vars(each) for each in results], Path(plot), title)
    most = None if None in config.shots else max(shots for shots in config.shots if shots)
    return FewshotResult(
        data=data, data_digest=sources[0].file.origin.data_digest,
        weights_digests={each.name: each.file.origin.weights_digest for each in sources},
        split=rows.test, pictures=len(rows.test_rows), classes=len(rows.classes),
        width={each.name: each.file.splits[rows.train][-1] for each in sources},
        results=results, differences=list(pair_differences(results)),
        closer=[closer(key, each, rows) for key, each in trials.items() if key[2] == most],
        short=short, plot=plot, elapsed_s=time.perf_counter() - start_time,
    )  # fmt: skip


Key = tuple[str, str, int | None]  # weights, probe, shots


def run_probes(
    config: FewshotConfig, sources: list[FeatureSource], rows: ProbeRows, reporter: Reporter
) -> Iterator[tuple[Key, list[ProbeTrial]]]:
    total = len(sources) * len(config.probes) * sum(seeds_of(config, shots) for shots in config.shots)
    with reporter.progress("probes", total, "fits") as bar:
        for source in sources:
            task = rows.task(source.file)
            for probe in config.probes:
                for shots in config.shots:
                    trials = []
                    for seed in range(seeds_of(config, shots)):
                        trials.append(run_trial(task, probe, config, shots, seed))
                        bar.advance(1, probe=probe, shots=shots or "all", top1=f"{trials[-1].top1:.1%}")
                    yield (source.name, probe, shots), trials
            warn_constant(config, source, task, reporter)


def seeds_of(config: FewshotConfig, shots: int | None) -> int:
    """One, if all images are used: then seeds do not differ."""
    return 1 if shots is None else config.seeds


def warn_constant(config: FewshotConfig, source: FeatureSource, task: ProbeTask, reporter: Reporter) -> None:
    fewest = min((shots for shots in config.shots if shots), default=None)
    same = count_constant_features(task.train[take_shots(draw_orders(task.labels, task.classes, 0), fewest)])
    if same:
        reporter.warn(
            f"{source.name}: {format_count(same, 'feature')} of {task.train.shape[1]} constant over the fewest shots; "
            "the prediction is unreliable for test images that differ in them"
        )


def sources_of(config: FewshotConfig, reporter: Reporter) -> tuple[str, list[FeatureSource]]:
    if config.features:
        return open_feature_file(config, FeatureFile(config.features))
    configs = [features_config(config, name) for name in config.sources or (None,)]
    weights = [open_source_weights(each, reporter) for each in configs]
    sizes = [size for size in map(features_size, configs, weights) if size]
    size = Res(*map(max, zip(*sizes, strict=True))) if sizes else None
    path = choose_data(config.data, reporter, data_of_run(configs[0].source), size)
    data = PatchFile(path)
    if data.header.leaked:
        leaked = format_count(data.header.leaked, "test or val image")
        reporter.warn(f"{path}: {leaked} also in train; list them with vitctl info {path} --rejects")
    sources = []
    for each, source in zip(configs, weights, strict=True):
        extract = replace(each, data=str(path))
        extractor = extractor_of(extract, data, source, reporter)
        file, _ = extract_features(extractor, data, extract, reporter)
        sources.append(FeatureSource(extractor.name, file, extractor.trained_on))
    return str(path), sources


def features_config(config: FewshotConfig, name: str | None) -> FeaturesConfig:
    extract = replace(config.extract, mean=(), std=()) if name == PIXELS else config.extract
    return replace(extract, source=name)


def open_feature_file(config: FewshotConfig, file: FeatureFile) -> tuple[str, list[FeatureSource]]:
    """A feature file. If weights or data are given too, its features must be of these."""
    from vitctl.workflows.inputs.weights import load_weights

    for name in config.sources:
        if name == PIXELS or name.startswith(RANDOM):
            raise UsageError(f"--features already names the features; omit --from {name}")
        if load_weights(name, config.extract.allow_missing).digest() != file.origin.weights_digest:
            raise DataError(
                f"{file.path}: its features are of {file.origin.model} with other weights than those of {name}"
            )
    if config.data and PatchFile(Path(config.data)).digest != file.origin.data_digest:
        raise DataError(f"{file.path}: its features are of other images than {config.data}")
    return str(file.path), [FeatureSource(str(file.path), file)]


def choose_probe_rows(config: FewshotConfig, file: FeatureFile, reporter: Reporter) -> ProbeRows:
    if config.train not in file.splits:
        raise UsageError(f"there is no split {config.train!r}; choose one of {', '.join(file.splits)}")
    test = config.test or find_held_out({name: int((file.labels(name) >= 0).sum()) for name in file.splits})
    labels = file.labels(config.train)
    rows = np.flatnonzero(labels >= 0)
    check_has_labels(file, labels[rows])
    if test is None or test == config.train:
        test = config.train
        rest, part = split_by_class(labels[rows], config.test_share, HELD_OUT_SEED)
        rows, test_rows, truth = rows[rest], rows[part], labels[rows[part]]
        reporter.note(
            f"there is no split to test on: {format_count(len(test_rows), 'image')} of {test} are held out for it, "
            f"{config.test_share:.0%} of each class"
        )
    else:
        truth = file.labels(test)
        test_rows = np.flatnonzero(truth >= 0)
        truth = truth[test_rows]
    if not len(test_rows):
        raise DataError(f"{file.path}: has no labeled images in {test} to test a probe on")
    return ProbeRows(config.train, rows, test, test_rows, labels[rows], truth, file.origin.class_names)


def warn_trained(sources: list[FeatureSource], rows: ProbeRows, reporter: Reporter) -> None:
    """Warn if the model was trained on the split that the test images are held out from."""
    for source in sources:
        if rows.test == rows.train and source.trained_on == source.file.origin.data_digest:
            reporter.warn(f"{source.name}: was trained on the test images, so its accuracy is too high")


def with_default_shots(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> FewshotConfig:
    """Without --shots: the default shots, up to the size of the largest class."""
    if config.shots:
        return config
    most = int(np.bincount(rows.labels).max())
    shots = tuple(each for each in SHOTS if each <= most)
    if shots != SHOTS:
        reporter.note(f"shots: {', '.join(map(str, shots))}; the largest class has {format_count(most, 'image')}")
    return replace(config, shots=shots)


def check_has_labels(file: FeatureFile, labels: Ints) -> None:
    if not len(labels):
        raise DataError(f"{file.path}: has no labeled images to fit a probe to")
    if len(np.unique(labels)) < 2:
        raise DataError(f"{file.path}: all its images are of one class; a probe needs two or more classes")


def check_shots(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> dict[str, int]:
    """Classes with fewer images than the most shots."""
    counts = np.bincount(rows.labels, minlength=len(rows.classes))
    most = max((shots for shots in config.shots if shots), default=0)
    if most > counts.max():
        raise DataError(f"--shots {most}: the largest class has only {counts.max()} images; use fewer shots")
    short = {name: int(count) for name, count in zip(rows.classes, counts, strict=True) if count < most}
    if short:
        names = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:5])
        reporter.warn(
            f"{format_count(len(short), 'class')} with fewer than {most} images; all of them are used: {names}"
        )
    return short


def result(config: FewshotConfig, key: Key, trials: list[ProbeTrial], rows: ProbeRows) -> ProbeResult:
    weights, probe, shots = key
    values = [each.top1 for each in trials]
    seeds = [SeedResult(each.seed, each.top1, each.strength, rows.rows[each.rows].tolist()) for each in trials]
    is_optimistic = probe == "lsr-grid" and config.select == "test"
    return ProbeResult(weights, probe, shots, float(np.mean(values)), confidence_interval(values), is_optimistic, seeds)


def pair_differences(results: list[ProbeResult]) -> Iterator[Difference]:
    for one, other in combinations(results, 2):
        if (one.probe, one.shots) == (other.probe, other.shots):
            pairs = [mine.top1 - theirs.top1 for mine, theirs in zip(one.seeds, other.seeds, strict=True)]
            mean = float(np.mean(pairs))
            yield Difference(one.weights, other.weights, one.probe, one.shots, mean, confidence_interval(pairs))


def closer(key: Key, trials: list[ProbeTrial], rows: ProbeRows) -> Closer:
    names, count = rows.classes, len(rows.classes)
    table = np.zeros((count, count))  # [true class, predicted class]
    for each in trials:
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
