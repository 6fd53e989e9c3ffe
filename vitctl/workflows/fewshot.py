"""`vitctl fewshot`: what frozen features are worth with a few labels a class."""

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
from vitctl.workflows.features import RANDOM, extract_features, extractor_of, features_size, open_named_weights
from vitctl.workflows.inputs.data import choose_data
from vitctl.workflows.inputs.samples import find_held_out
from vitctl.workflows.inputs.weights import data_of_run

CONFUSED = 5  # pairs that are named
HELD_OUT_SEED = 0  # of the test images: the same for every seed of the shots


@dataclass(frozen=True)
class SeedResult:
    seed: int
    top1: float
    l2: float | None  # the strength; of logreg, C
    indices: list[int]  # rows of the train split


@dataclass(frozen=True)
class ProbeResult:
    weights: str
    probe: str
    shots: int | None  # None: all
    mean: float
    ci95: float | None
    optimistic: bool  # test images chose the strength
    seeds: list[SeedResult]


@dataclass(frozen=True)
class Difference:
    """Of two models on the same draws: mean of weights less against."""

    weights: str
    against: str
    probe: str
    shots: int | None
    mean: float
    ci95: float | None


@dataclass(frozen=True)
class Closer:
    """Of one model and probe, with the most shots, over all seeds."""

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
    trained_on: str = ""  # the digest of the data


@dataclass(frozen=True)
class ProbeRows:
    """Which rows are drawn from, and which are judged on."""

    train: str
    rows: Ints  # of the train split, labeled
    test: str
    judged: Ints  # of the test split, labeled
    labels: Ints  # of rows
    truth: Ints  # of judged
    classes: tuple[str, ...]

    def task(self, file: FeatureFile) -> ProbeTask:
        train = file.features(self.train)[self.rows]
        test = file.features(self.test)[self.judged]
        for values in (train, test):
            if values.ndim != 2:
                raise DataError(f"{file.path}: has a vector for each patch; a probe needs one per image")
            if not np.isfinite(values).all():
                raise DataError(f"{file.path}: some features are not finite; extract them in float32")
        return ProbeTask(train, self.labels, test, self.truth, len(self.classes))


def fewshot(config: FewshotConfig, reporter: Reporter | None = None, *, plot: str | None = None) -> FewshotResult:
    reporter, began = reporter or SilentReporter(), time.perf_counter()
    check_output(plot, config.data, config.features, ending=".png")
    data, sources = sources_of(config, reporter)
    pictures = choose_probe_rows(config, sources[0].file, reporter)
    warn_trained(sources, pictures, reporter)
    config = with_shots_there(config, pictures, reporter)
    short = check_shots(config, pictures, reporter)
    trials = dict(run_probes(config, sources, pictures, reporter))
    results = [result(config, key, each, pictures) for key, each in trials.items()]
    if plot:
        draw_shots(
            [vars(each) for each in results], Path(plot), f"{data}, {format_count(len(pictures.classes), 'class')}"
        )
    return FewshotResult(
        data=data,
        data_digest=sources[0].file.origin.data_digest,
        weights_digests={each.name: each.file.origin.weights_digest for each in sources},
        split=pictures.test,
        pictures=len(pictures.judged),
        classes=len(pictures.classes),
        width={each.name: each.file.splits[pictures.train][-1] for each in sources},
        results=results,
        differences=list(pair_differences(results)),
        closer=[closer(key, each, pictures) for key, each in trials.items() if key[2] == most_shots(config)],
        short=short,
        plot=plot,
        elapsed_s=time.perf_counter() - began,
    )


Key = tuple[str, str, int | None]  # weights, probe, shots


def run_probes(
    config: FewshotConfig, sources: list[FeatureSource], pictures: ProbeRows, reporter: Reporter
) -> Iterator[tuple[Key, list[ProbeTrial]]]:
    total = len(sources) * len(config.probes) * sum(seeds_of(config, shots) for shots in config.shots)
    with reporter.progress("probes", total, "fits") as bar:
        for source in sources:
            task = pictures.task(source.file)
            for probe in config.probes:
                for shots in config.shots:
                    trials = []
                    for seed in range(seeds_of(config, shots)):
                        trials.append(run_trial(task, probe, config, shots, seed))
                        bar.advance(1, probe=probe, shots=shots or "all", top1=f"{trials[-1].top1:.1%}")
                    yield (source.name, probe, shots), trials
            warn_constant(config, source, task, reporter)


def seeds_of(config: FewshotConfig, shots: int | None) -> int:
    """All images are the same ones for every seed."""
    return 1 if shots is None else config.seeds


def warn_constant(config: FewshotConfig, source: FeatureSource, task: ProbeTask, reporter: Reporter) -> None:
    fewest = min((shots for shots in config.shots if shots), default=None)
    same = count_constant_features(task.train[take_shots(draw_orders(task.labels, task.classes, 0), fewest)])
    if same:
        reporter.warn(
            f"{source.name}: {format_count(same, 'feature')} of {task.train.shape[1]} the same on the fewest shots; "
            "where a test image differs there, its score means little"
        )


# --- which features, which images ----------------------------------------------------------------------------------


def sources_of(config: FewshotConfig, reporter: Reporter) -> tuple[str, list[FeatureSource]]:
    if config.features:
        return open_feature_file(config, FeatureFile(config.features))
    each = [of_source(config, name) for name in config.sources or (None,)]
    weights = [open_named_weights(one, reporter) for one in each]
    sizes = [size for size in map(features_size, each, weights) if size]
    size = Res(*map(max, zip(*sizes, strict=True))) if sizes else None
    path = choose_data(config.data, reporter, data_of_run(each[0].source), size)
    data = PatchFile(path)
    if data.header.leaked:
        reporter.warn(
            f"{path}: {format_count(data.header.leaked, 'test or val image')} are also in train; vitctl info names them"
        )
    found = []
    for one, own in zip(each, weights, strict=True):
        wanted = replace(one, data=str(path))
        extractor = extractor_of(wanted, data, own, reporter)
        found.append(
            FeatureSource(extractor.name, extract_features(extractor, data, wanted, reporter)[0], extractor.trained_on)
        )
    return str(path), found


def of_source(config: FewshotConfig, name: str | None) -> FeaturesConfig:
    extract = replace(config.extract, mean=(), std=()) if name == PIXELS else config.extract
    return replace(extract, source=name)


def open_feature_file(config: FewshotConfig, file: FeatureFile) -> tuple[str, list[FeatureSource]]:
    """A feature file; that it is of these weights and data, where they are named beside it."""
    from vitctl.workflows.inputs.weights import load_weights

    for name in config.sources:
        if name == PIXELS or name.startswith(RANDOM):
            raise UsageError(f"--features has features already; leave --from {name} out")
        if load_weights(name, config.extract.allow_missing).digest() != file.origin.weights_digest:
            raise DataError(f"{file.path}: its features are of {file.origin.model} with other weights than {name}")
    if config.data and PatchFile(Path(config.data)).digest != file.origin.data_digest:
        raise DataError(f"{file.path}: its features are of other images than {config.data}")
    return str(file.path), [FeatureSource(str(file.path), file)]


def choose_probe_rows(config: FewshotConfig, file: FeatureFile, reporter: Reporter) -> ProbeRows:
    if config.train not in file.splits:
        raise UsageError(f"there is no split {config.train!r}; there is {', '.join(file.splits)}")
    test = config.test or find_held_out({name: int((file.labels(name) >= 0).sum()) for name in file.splits})
    labels = file.labels(config.train)
    rows = np.flatnonzero(labels >= 0)
    check_has_labels(file, labels[rows])
    if test is None or test == config.train:
        test = config.train
        rest, part = split_by_class(labels[rows], config.test_share, HELD_OUT_SEED)
        rows, judged, truth = rows[rest], rows[part], labels[rows[part]]
        reporter.note(
            f"no split to test on: {format_count(len(judged), 'image')} of {test} are held out, "
            f"{config.test_share:.0%} of each class"
        )
    else:
        truth = file.labels(test)
        judged = np.flatnonzero(truth >= 0)
        truth = truth[judged]
    if not len(judged):
        raise DataError(f"{file.path}: no labeled images in {test} to judge a probe on")
    return ProbeRows(config.train, rows, test, judged, labels[rows], truth, file.origin.class_names)


def warn_trained(sources: list[FeatureSource], pictures: ProbeRows, reporter: Reporter) -> None:
    """Where the images that are judged on were held out of those that a model was trained with."""
    for source in sources:
        if pictures.test == pictures.train and source.trained_on == source.file.origin.data_digest:
            reporter.warn(f"{source.name}: was trained on the images that it is tested on here")


def with_shots_there(config: FewshotConfig, pictures: ProbeRows, reporter: Reporter) -> FewshotConfig:
    """Where none are named, the usual ones that the largest class has."""
    if config.shots:
        return config
    most = int(np.bincount(pictures.labels).max())
    kept = tuple(shots for shots in SHOTS if shots <= most)
    if kept != SHOTS:
        reporter.note(
            f"shots: {', '.join(map(str, kept))}, because the largest class has {format_count(most, 'image')}"
        )
    return replace(config, shots=kept)


def check_has_labels(file: FeatureFile, labels: Ints) -> None:
    if not len(labels):
        raise DataError(f"{file.path}: no labeled images to fit a probe to")
    if len(np.unique(labels)) < 2:
        raise DataError(f"{file.path}: all its images are of one class; a probe tells two at least apart")


def check_shots(config: FewshotConfig, pictures: ProbeRows, reporter: Reporter) -> dict[str, int]:
    """Classes with fewer images than the most shots."""
    counts = np.bincount(pictures.labels, minlength=len(pictures.classes))
    wanted = max((shots for shots in config.shots if shots), default=0)
    if wanted > counts.max():
        raise DataError(f"--shots {wanted}: no class has that many images; the largest has {counts.max()}")
    short = {name: int(count) for name, count in zip(pictures.classes, counts, strict=True) if count < wanted}
    if short:
        named = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:5])
        reporter.warn(f"{format_count(len(short), 'class')} with fewer than {wanted} images use all they have: {named}")
    return short


# --- what was found --------------------------------------------------------------------------------------------------


def most_shots(config: FewshotConfig) -> int | None:
    return None if None in config.shots else max(shots for shots in config.shots if shots)


def result(config: FewshotConfig, key: Key, trials: list[ProbeTrial], pictures: ProbeRows) -> ProbeResult:
    weights, probe, shots = key
    values = [each.top1 for each in trials]
    seeds = [SeedResult(each.seed, each.top1, each.strength, pictures.rows[each.rows].tolist()) for each in trials]
    is_optimistic = probe == "lsr-grid" and config.select == "test"
    return ProbeResult(weights, probe, shots, float(np.mean(values)), confidence_interval(values), is_optimistic, seeds)


def pair_differences(results: list[ProbeResult]) -> Iterator[Difference]:
    for one, other in combinations(results, 2):
        if (one.probe, one.shots) == (other.probe, other.shots):
            pairs = [mine.top1 - theirs.top1 for mine, theirs in zip(one.seeds, other.seeds, strict=True)]
            mean = float(np.mean(pairs))
            yield Difference(one.weights, other.weights, one.probe, one.shots, mean, confidence_interval(pairs))


def closer(key: Key, trials: list[ProbeTrial], pictures: ProbeRows) -> Closer:
    count = len(pictures.classes)
    table = np.zeros((count, count))  # [true, guessed]
    for each in trials:
        np.add.at(table, (pictures.truth, each.guesses), 1)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    there = {name: float(shares[row, row]) for row, name in enumerate(pictures.classes) if table[row].any()}
    wrong = np.where(np.eye(count, dtype=bool), 0, shares)
    worst = [np.unravel_index(place, wrong.shape) for place in np.argsort(-wrong, axis=None)[:CONFUSED]]
    confused: list[dict[str, str | float]] = [
        {"true": pictures.classes[row], "predicted": pictures.classes[column], "share": float(wrong[row, column])}
        for row, column in worst
        if wrong[row, column]
    ]
    return Closer(*key, there, confused)
