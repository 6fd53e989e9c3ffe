"""Chooses the shots like big_vision or DINOv3, so that a seed gives the same images in both."""

from typing import Any

import numpy as np
import torch

Ints = np.ndarray[Any, np.dtype[np.int64]]


def draw_orders(labels: Ints, classes: int, seed: int, source: str = "big_vision") -> list[Ints]:
    """A random order of each class's rows. The k shots are the first k, so fewer shots are a subset of more."""
    rows = [np.flatnonzero(labels == number) for number in range(classes)]
    if source == "dinov3":
        generator = torch.Generator().manual_seed(seed)
        return [each[torch.randperm(len(each), generator=generator).numpy()] for each in rows]
    random = np.random.default_rng(seed)
    return [random.permutation(each) for each in rows]


def hold_out_validation(labels: Ints, classes: int, share: float) -> tuple[Ints, Ints]:
    """DINOv3's (rest, part) in its order: at least one row of a class, but no class's only one."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).numpy()
    is_part = np.zeros(len(labels), bool)
    for number in range(classes):
        places = np.flatnonzero(labels[order] == number)
        is_part[places[: max(1, int(share * len(places))) if len(places) > 1 else 0]] = True
    return order[~is_part], order[is_part]


def draw_episode(labels: Ints, ways: int, shots: int, queries: int, seed: int) -> tuple[Ints, Ints]:
    """Shots and test images of a few random classes, of those that have enough images."""
    random = np.random.default_rng(seed)
    enough = np.flatnonzero(np.bincount(labels) >= shots + queries)
    chosen = [
        random.permutation(np.flatnonzero(labels == number))[: shots + queries]
        for number in random.choice(enough, ways, replace=False)
    ]
    return np.concatenate([each[:shots] for each in chosen]), np.concatenate([each[shots:] for each in chosen])


def draw_member_orders(members: Any, seed: int) -> list[Ints]:
    """The same for classes [C, M] that share images: `members` is true for the images of each."""
    random = np.random.default_rng(seed)
    return [random.permutation(np.flatnonzero(each)) for each in members]


def take_shots(order: list[Ints], shots: int | None) -> Ints:
    """The rows of the shots, class by class; all rows for None. A class may have fewer."""
    return np.concatenate([rows[:shots] for rows in order])


def split_by_class(labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """(rest, part): a share of every class goes into `part`, at least one row if the class has two."""
    rest, part = [], []
    for rows in draw_orders(labels, int(labels.max(initial=-1)) + 1, seed):
        count = min(max(1, round(share * len(rows))), len(rows) - 1) if len(rows) else 0
        part.append(rows[:count])
        rest.append(rows[count:])
    return np.sort(np.concatenate(rest)), np.sort(np.concatenate(part))
