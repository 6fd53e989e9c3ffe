"""The features that `vitctl fewshot` probes: of weights on data, or of a feature file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.eval_crop import SHORT_SIDE, parse_eval_crop
from vitctl.config.features import PIXELS, FeaturesConfig
from vitctl.config.fewshot import FewshotConfig
from vitctl.config.res import Res
from vitctl.errors import DataError, UsageError
from vitctl.io.feature_file import FeatureFile
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import Weights
from vitctl.probing.draws import Ints
from vitctl.probing.ridge import Floats
from vitctl.reporting import Reporter, format_count
from vitctl.workflows.features import (
    RANDOM,
    Extractor,
    describe_eval_crop,
    extract_features,
    extractor_of,
    features_size,
    open_source_weights,
)
from vitctl.workflows.inputs.data import choose_data
from vitctl.workflows.inputs.weights import data_of_run


@dataclass(frozen=True)
class FeatureSource:
    """The features of one model."""

    name: str
    file: FeatureFile
    trained_on: str = ""  # digest of the training data
    base: Any = None  # [D], the mean of other images


def read_features(file: FeatureFile, split: str, rows: Ints) -> Floats:
    values = file.features(split)[rows]
    if values.ndim != 2:
        raise DataError(f"{file.path}: has one vector per patch; a probe needs one per image (features --pool)")
    if not np.isfinite(values).all():
        raise DataError(f"{file.path}: has features that are not finite; extract them with --precision float32")
    return values


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
