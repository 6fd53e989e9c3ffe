"""`vitctl fewshot`: the scores of probes that are fitted to frozen features of a few images per class."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.eval_crop import SHORT_SIDE, parse_eval_crop
from vitctl.config.features import PIXELS, FeaturesConfig
from vitctl.config.fewshot import SHOTS, FewshotConfig, with_protocol
from vitctl.config.res import Res
from vitctl.errors import DataError, UsageError
from vitctl.inspection.charts import draw_shots
from vitctl.io.feature_file import FeatureFile
from vitctl.io.outputs import check_output
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import Weights
from vitctl.probing.draws import Ints, draw_member_orders, draw_orders, split_by_class, take_shots
from vitctl.probing.fewshot import (
    ProbeTask,
    ProbeTrial,
    confidence_interval,
    count_constant_features,
    run_trial,
)
from vitctl.probing.metrics import MAIN, describe_metrics
from vitctl.probing.ridge import Floats
from vitctl.probing.targets import TARGET_PROBES, TargetTask, TargetTrial, run_target_trial
from vitctl.reporting import Reporter, SilentReporter, format_count
from vitctl.workflows.features import (
    RANDOM,
    Extractor,
    describe_eval_crop,
    extract_features,
    extractor_of,
    features_size,
    open_source_weights,
)
from vitctl.workflows.inputs.data import LABEL_WORDS, choose_data
from vitctl.workflows.inputs.samples import find_held_out
from vitctl.workflows.inputs.weights import data_of_run

CONFUSED = 5  # pairs of classes in the result
MOST_SEEDS = 100  # of each result that are listed one by one
NUMBER_SHOTS = (10, 25, 100)  # in all
AXES = {
    "classes": ("shots per class", "top-1 accuracy"),
    "sets": ("shots per class", "mAP"),
    "numbers": ("shots in all", "R²"),
}
HELD_OUT_SEED = 0  # the test images are the same for every seed of the shots


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


@dataclass(frozen=True)
class FeatureSource:
    """The features of one model."""

    name: str
    file: FeatureFile
    trained_on: str = ""  # digest of the training data
    base: Any = None  # [D], the mean of other images


@dataclass(frozen=True)
class ProbeRows:
    """The rows to sample shots from, and the rows to test probes on."""

    train: str
    rows: Ints  # labeled rows of the train split
    test: str
    test_rows: Ints  # labeled rows of the test split
    labels: Any  # of `rows`, as FeatureFile.truth has them
    truth: Any  # of `test_rows`
    classes: tuple[str, ...]
    kind: str  # classes, sets or numbers
    val: str | None = None  # the split to choose strengths on, of logreg-val

    @property
    def counts(self) -> Ints:
        """The labeled images of each class [K] in train; of numbers, of all [1]."""
        if self.kind == "classes":
            return np.bincount(self.labels, minlength=len(self.classes))
        return np.array([len(self.labels)]) if self.kind == "numbers" else self.labels.sum(0, dtype=np.int64)

    def task(self, file: FeatureFile, base: Any = None) -> ProbeTask | TargetTask:
        train, test = read_features(file, self.train, self.rows), read_features(file, self.test, self.test_rows)
        if self.kind == "classes":
            val = None
            if self.val:
                rows = np.flatnonzero(file.has_label(self.val))
                val = read_features(file, self.val, rows), file.truth(self.val)[rows]
            return ProbeTask(train, self.labels, test, self.truth, len(self.classes), base, val)
        targets, truth = (each.reshape(len(each), -1).astype(np.float64) for each in (self.labels, self.truth))
        return TargetTask(self.kind, train, targets, test, truth)


def read_features(file: FeatureFile, split: str, rows: Ints) -> Floats:
    values = file.features(split)[rows]
    if values.ndim != 2:
        raise DataError(f"{file.path}: has one vector per patch; a probe needs one per image (features --pool)")
    if not np.isfinite(values).all():
        raise DataError(f"{file.path}: has features that are not finite; extract them with --precision float32")
    return values


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


def sources_of(config: FewshotConfig, reporter: Reporter) -> tuple[str, list[FeatureSource]]:
    if config.features:
        return open_feature_file(config, FeatureFile(config.features), reporter)
    configs = [features_config(config, name) for name in config.sources or (None,)]
    weights = [open_source_weights(each, reporter) for each in configs]
    sizes = [size for size in map(features_size, configs, weights) if size]
    size = Res(*map(max, zip(*sizes, strict=True))) if sizes else None
    path = choose_data(config.data, reporter, data_of_run(configs[0].source), size)
    data = PatchFile(path)
    others = PatchFile(choose_data(config.base, reporter, None, size)) if config.base else None
    if data.header.leaked:
        leaked = format_count(data.header.leaked, "test or val image")
        reporter.warn(f"{path}: {leaked} also in train; list them with vitctl info {path} --rejects")
    sources = []
    for each, source in zip(configs, weights, strict=True):
        extractor, file = extract_from(each, data, source, reporter)
        base = mean_of_train(extract_from(each, others, source, reporter)[1]) if others else None
        sources.append(FeatureSource(extractor.name, file, extractor.trained_on, base))
    return str(path), sources


def extract_from(
    config: FeaturesConfig, data: PatchFile, source: Weights | None, reporter: Reporter
) -> tuple[Extractor, FeatureFile]:
    config = replace(config, data=str(data.path))
    extractor = extractor_of(config, data, source, reporter)
    return extractor, extract_features(extractor, data, config, reporter)[0]


def mean_of_train(file: FeatureFile) -> Any:
    if "train" not in file.splits:
        raise DataError(f"{file.path}: has no split train, whose mean --set base= is for")
    return read_features(file, "train", np.arange(file.splits["train"][0])).mean(0, dtype=np.float64)


def features_config(config: FewshotConfig, name: str | None) -> FeaturesConfig:
    extract = replace(config.extract, mean=(), std=()) if name == PIXELS else config.extract
    return replace(extract, source=name)


def open_feature_file(config: FewshotConfig, file: FeatureFile, reporter: Reporter) -> tuple[str, list[FeatureSource]]:
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
    crop = parse_eval_crop(config.extract.eval_crop, SHORT_SIDE)
    if config.protocol and file.origin.eval_crop != describe_eval_crop(crop):
        own = file.origin.eval_crop or str(SHORT_SIDE)
        reporter.warn(f"{file.path}: its features are of images so: {own}; those of {config.protocol} are so: {crop}")
    base = mean_of_train(FeatureFile(config.base)) if config.base else None
    return str(file.path), [FeatureSource(str(file.path), file, base=base)]


def choose_probe_rows(config: FewshotConfig, file: FeatureFile, reporter: Reporter) -> ProbeRows:
    if config.train not in file.splits:
        raise UsageError(f"there is no split {config.train!r}; choose one of {', '.join(file.splits)}")
    known = {name: np.flatnonzero(file.has_label(name)) for name in file.splits}
    if config.draws == "episodes":
        return choose_episode_rows(config, file, known)
    test = config.test or find_held_out({name: len(rows) for name, rows in known.items()})
    labels, rows = file.truth(config.train), known[config.train]
    check_has_labels(file, labels[rows])
    if test is None or test == config.train:
        test = config.train
        strata = file.labels(config.train)[rows]  # of sets, the first class of each
        rest, part = split_by_class(strata - strata.min(initial=0), config.test_share, HELD_OUT_SEED)
        rows, test_rows, truth = rows[rest], rows[part], labels[rows[part]]
        reporter.note(
            f"there is no split to test on: {format_count(len(test_rows), 'image')} of {test} are held out for it, "
            f"{config.test_share:.0%} of {'all' if file.task == 'numbers' else 'each class'}"
        )
    else:
        truth = file.truth(test)
        test_rows = known[test]
        truth = truth[test_rows]
    check_can_score(file, test, truth)
    val = (
        "val"
        if "logreg-val" in config.probes and len(known.get("val", ())) and "val" not in (config.train, test)
        else None
    )
    return ProbeRows(config.train, rows, test, test_rows, labels[rows], truth, file.origin.class_names, file.task, val)


def choose_episode_rows(config: FewshotConfig, file: FeatureFile, known: dict[str, Ints]) -> ProbeRows:
    """All images of one split: an episode draws both its shots and its test images from them."""
    split = config.test or config.train
    rows, labels = known[split], file.truth(split)[known[split]]
    if file.task != "classes":
        raise UsageError(f"draws=episodes: needs one class per image, and the data has {LABEL_WORDS[file.task]}")
    most = max((shots or 0 for shots in config.shots), default=0)
    if not most or None in config.shots:
        raise UsageError("draws=episodes: write --shots N, the images per class that an episode learns from")
    enough = int((np.bincount(labels) >= most + config.queries).sum())
    if enough < config.ways:
        raise DataError(
            f"{file.path}: {format_count(enough, 'class')} of {split} with the {most} + {config.queries} images of an "
            f"episode, which needs {config.ways} classes; use fewer shots, or --set queries= and --set ways="
        )
    return ProbeRows(split, rows, split, rows, labels, labels, file.origin.class_names, file.task)


def check_can_score(file: FeatureFile, test: str, truth: Any) -> None:
    if not len(truth):
        raise DataError(f"{file.path}: has no labeled images in {test} to test a probe on")
    if file.task == "sets" and not truth.any():
        raise DataError(f"{file.path}: no image of {test} has a class, so a probe cannot be tested on it")
    if file.task == "numbers" and len(truth) < 2:
        raise DataError(f"{file.path}: has a single labeled image in {test}; R² needs two or more")


def check_probes(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> None:
    kind = rows.kind
    for probe in config.probes:
        if kind != "classes" and probe not in TARGET_PROBES[kind]:
            raise UsageError(
                f"--probe {probe}: needs one class per image, and the data has {LABEL_WORDS[kind]}; "
                f"use {', '.join(TARGET_PROBES[kind])}"
            )
    if config.draws == "episodes" and "logreg-val" in config.probes:
        raise UsageError("--probe logreg-val: has no images to choose its strength on in an episode; use logreg")
    if config.protocol == "simpleshot" and not config.base:
        reporter.note(
            "SimpleShot subtracts the mean of the classes that the model was trained on; name their data with "
            "--set base=FILE; here it is the mean of the shots"
        )


def warn_trained(sources: list[FeatureSource], rows: ProbeRows, reporter: Reporter) -> None:
    """Warn if the model was trained on the split that the test images are held out from."""
    for source in sources:
        if rows.test == rows.train and source.trained_on == source.file.origin.data_digest:
            reporter.warn(f"{source.name}: was trained on the test images, so its accuracy is too high")


def with_default_shots(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> FewshotConfig:
    """Without --shots: the default shots, up to the size of the largest class; all if it has fewer."""
    if config.shots:
        return config
    most, usual = int(rows.counts.max()), NUMBER_SHOTS if rows.kind == "numbers" else SHOTS
    shots: tuple[int | None, ...] = tuple(each for each in usual if each <= most) or (None,)
    if shots != usual:
        names = ", ".join(str(each or "all") for each in shots)
        reporter.note(f"shots: {names}; {name_largest(rows)} has {format_count(most, 'image')}")
    return replace(config, shots=shots)


def name_largest(rows: ProbeRows) -> str:
    return rows.train if rows.kind == "numbers" else "the largest class"


def check_has_labels(file: FeatureFile, labels: Any) -> None:
    if not len(labels):
        raise DataError(f"{file.path}: has no labeled images to fit a probe to")
    if file.task == "sets" and not labels.any():
        raise DataError(f"{file.path}: none of its images has a class; a probe needs images of each")
    if file.task == "classes" and len(np.unique(labels)) < 2:
        raise DataError(f"{file.path}: all its images are of one class; a probe needs two or more classes")


def check_shots(config: FewshotConfig, rows: ProbeRows, reporter: Reporter) -> dict[str, int]:
    """Classes with fewer images than the most shots."""
    counts = rows.counts
    most = max((shots for shots in config.shots if shots), default=0)
    if most > counts.max():
        raise DataError(f"--shots {most}: {name_largest(rows)} has only {counts.max()} images; use fewer shots")
    short = {name: int(count) for name, count in zip(rows.classes, counts, strict=False) if count < most}
    if short:
        names = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:5])
        reporter.warn(
            f"{format_count(len(short), 'class')} with fewer than {most} images; all of them are used: {names}"
        )
    return short


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
