"""Data sets of the Hugging Face hub by name, hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT], as the Parquet files they have.

A data set that holds no Parquet is read from the copy that the hub converts, which is a branch of its own.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from vitctl.data.sources.names import split_in, split_name
from vitctl.data.sources.remote import PATIENCE_AT_FIRST, RemoteFile, explain_failure, http_status, persist
from vitctl.errors import DataError, RunError, did_you_mean
from vitctl.reporting import mute_loggers

NAME = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:/([\w.-]+))?(?:@([^@:]+))?(?::([\w.-]+))?")
CONVERTED = "refs/convert/parquet"  # the hub's own branch: CONFIG/SPLIT/0000.parquet
LOGIN = "log in with `hf auth login` or set HF_TOKEN"

Splits = dict[str, list[str]]  # the files of each split, or of "" if their names tell none


@dataclass
class HubDataset:
    """The files to read, and the split of each."""

    files: list[RemoteFile] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_hub_dataset(text: str) -> HubDataset:
    match = NAME.fullmatch(text)
    if match is None:
        raise DataError(f"{text}: is not understood; write hf:OWNER/NAME, hf:OWNER/NAME:SPLIT or hf:OWNER/NAME/CONFIG")
    name, config, revision, split = match.groups()
    info = ask_hub(text, name, revision)
    configs = find_own_configs(info)
    if not configs:
        info = ask_hub(text, info.id, CONVERTED)
        configs = find_converted_configs(info)
    if not configs:
        raise DataError(f"{text}: holds no Parquet files, and the hub has not converted it; download it, and name it")
    address = "hf:" + info.id + (f"@{revision}" if revision else "")
    splits = choose_config(text, info.id, configs, config)
    dataset = HubDataset()
    for word, paths in choose_splits(text, splits, split, dataset.notes).items():
        if any("/partial-" in path for path in paths):
            dataset.notes.append(f"the hub has converted only a part of {address}; its own files hold the rest")
        dataset.splits += [split_name(word)] * len(paths)
        dataset.files += [hub_file(info, path) for path in paths]
    with explain_hub_errors(text):
        dataset.files[0].fetch(0, 4, PATIENCE_AT_FIRST)  # a gated data set lists its files, but does not send them
    return dataset


def ask_hub(text: str, name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    with explain_hub_errors(text), mute_loggers("huggingface_hub"):
        return persist(
            lambda: HfApi().dataset_info(name, revision=revision, files_metadata=True, timeout=30), PATIENCE_AT_FIRST
        )


@contextmanager
def explain_hub_errors(text: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except DataError:
        raise
    except Exception as error:  # those of its HTTP library, which differs between releases
        cause = error.__cause__ if isinstance(error, RunError) and isinstance(error.__cause__, Exception) else error
        if isinstance(cause, GatedRepoError) or http_status(cause) == 403:
            reason = f"is gated; accept its terms on its page, then {LOGIN}"
        elif isinstance(cause, RevisionNotFoundError):
            reason = "holds no Parquet files, and the hub has no converted copy or no such revision; download it first"
        elif isinstance(cause, RepositoryNotFoundError | HFValidationError) or http_status(cause) in (401, 404):
            reason = f"the hub has no such data set, or it is private; check the name, or {LOGIN}"
        else:
            reason = f"the hub cannot be reached ({explain_failure(cause)}); check the network"
        raise DataError(f"{text}: {reason}") from error


def parquet_paths(info: Any) -> list[str]:
    return sorted(each.rfilename for each in info.siblings or () if each.rfilename.endswith(".parquet"))


def find_own_configs(info: Any) -> dict[str, Splits]:
    """The Parquet files of the data set itself, grouped as its card says, or else by their names."""
    paths = parquet_paths(info)
    configs: dict[str, Splits] = {}
    for each in (info.card_data.get("configs") if info.card_data else None) or ():
        splits = {split: match_paths(paths, patterns) for split, patterns in read_data_files(each).items()}
        if any(splits.values()):
            configs[str(each.get("config_name", "default"))] = {
                split: found for split, found in splits.items() if found
            }
    if configs or not paths:
        return configs
    words = {path: split_in(path.rpartition("/")[2]) or split_in(path.split("/")[-2:][0]) for path in paths}
    if None in words.values():
        return {"default": {"": paths}}
    return {"default": group_by(words)}


def read_data_files(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The patterns of each split in one config of a card."""
    files = config.get("data_files") or f"{config.get('data_dir', '.')}/*".removeprefix("./")
    items = files if isinstance(files, list) else [files]
    patterns: dict[str, list[str]] = {}
    for item in items:
        split, some = (str(item.get("split", "")), item.get("path")) if isinstance(item, dict) else ("", item)
        patterns.setdefault(split, []).extend(map(str, some if isinstance(some, list) else [some]))
    return patterns


def match_paths(paths: list[str], patterns: list[str]) -> list[str]:
    plain = [pattern.removeprefix("./").replace("**/", "*") for pattern in patterns]
    return [path for path in paths if any(fnmatch(path, pattern) for pattern in plain)]


def find_converted_configs(info: Any) -> dict[str, Splits]:
    configs: dict[str, dict[str, str]] = {}
    for path in parquet_paths(info):
        config, _, rest = path.partition("/")
        if "/" in rest:
            configs.setdefault(config, {})[path] = rest.split("/")[0].removeprefix("partial-")
    return {config: group_by(words) for config, words in configs.items()}


def group_by(words: Mapping[str, str | None]) -> Splits:
    splits: Splits = {}
    for path, word in words.items():
        splits.setdefault(word or "", []).append(path)
    return splits


def choose_config(text: str, name: str, configs: Mapping[str, Splits], config: str | None) -> Splits:
    if config is None and len(configs) == 1:
        return next(iter(configs.values()))
    if config is not None and config in configs:
        return configs[config]
    if config is None:
        names = [f"hf:{name}/{each}" for each in configs]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise DataError(f"{text}: has several configs; choose one: {', '.join(names[:12])}{more}")
    raise DataError(f"{text}: has no config {config!r}; {did_you_mean(config, configs)}")


def choose_splits(text: str, splits: Splits, split: str | None, notes: list[str]) -> Splits:
    """The split of that name, or all that are train, val or test; a lone one may have any name."""
    if split is not None:
        same = split_name(split) or split
        chosen = {word: paths for word, paths in splits.items() if word == split or split_name(word) == same}
        if not chosen:
            raise DataError(f"{text}: has no split {split!r}; {did_you_mean(split, filter(None, splits))}")
        return chosen
    known = {word: paths for word, paths in splits.items() if split_name(word)}
    if len(splits) > 1 and not known:
        raise DataError(f"{text}: none of its splits is train, val or test; choose one: {text}:{min(splits)}")
    others = [word for word in splits if word not in known] if known else []
    if others:
        notes.append(f"ignored splits: {', '.join(word or 'files without one' for word in others)}")
    return known or splits


def hub_file(info: Any, path: str) -> RemoteFile:
    """A file at the commit of `info`. Its version is that of the file, which later commits may keep."""
    (each,) = (each for each in info.siblings if each.rfilename == path)
    version = each.lfs["sha256"] if each.lfs else each.blob_id
    return RemoteFile(f"hf:{info.id}/{path}", each.size, version or "", f"hf://datasets/{info.id}@{info.sha}/{path}")
