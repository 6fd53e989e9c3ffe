import pickle
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from vitctl.config.overrides import override
from vitctl.config.train import FinetuneConfig, OptimConfig, PretrainConfig
from vitctl.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    steps: int | None = None
    fast: bool = False
    places: Literal["none", "some"] | None = "some"

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError("steps must be at least 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner.rate=3e-4", Outer(Inner(rate=3e-4))),
        ("inner.kind=sgd", Outer(Inner(kind="sgd"))),
        ("inner.betas=0.9,0.95", Outer(Inner(betas=(0.9, 0.95)))),
        ("inner.betas=(0.9, 0.95)", Outer(Inner(betas=(0.9, 0.95)))),
        ("inner.names=a,b,c", Outer(Inner(names=("a", "b", "c")))),
        ("steps=10", Outer(steps=10)),
        ("steps=none", Outer()),
        ("places=none", Outer(places="none")),
        ("places=None", Outer(places=None)),
        (" fast = yes ", Outer(fast=True)),
    ],
)
def test_one_field_changes(text: str, expected: Outer) -> None:
    assert override(Outer(), [text]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner.rte=1", "no field 'rte'; did you mean 'rate'"),
        ("rate=1", "no field 'rate'; did you mean 'inner.rate'"),
        ("innr.rate=1", "did you mean 'inner'"),
        ("inner=1", "name one of its fields: inner.rate"),
        ("steps.more=1", "has no fields of its own"),
        ("steps", "write --set name=value"),
        ("=3", "write --set name=value"),
        ("steps=many", "expected a whole number"),
        ("inner.rate=fast", "expected a number"),
        ("inner.kind=adm", "did you mean 'adam'"),
        ("inner.betas=0.9", "expected 2 values"),
        ("fast=perhaps", "expected true or false"),
        ("steps=0", "steps must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        override(Outer(), [text])
    assert "\n" not in str(caught.value)


def test_a_request_over_a_recipe_changes_only_the_fields_that_were_named() -> None:
    base = PretrainConfig(model="vit-s/16", epochs=7, optim=OptimConfig(lr=0.1, beta2=0.9), dropout=0.5)
    assert PretrainConfig().over(base) == base
    request = PretrainConfig(steps=3, dropout=0.0, optim=OptimConfig(lr=0.2))
    assert request.over(base) == replace(base, epochs=None, steps=3, dropout=0.0, optim=replace(base.optim, lr=0.2))
    assert override(PretrainConfig(), ["optim.beta1=0.5", "res=none"]).over(base) == replace(
        base, optim=replace(base.optim, beta1=0.5)
    )
    assert pickle.loads(pickle.dumps(request)).over(base) == request.over(base)


def test_one_lr_is_the_lr_and_several_are_tried() -> None:
    base = FinetuneConfig(lrs=(0.1, 0.2), epochs=1)
    one, two = (FinetuneConfig(lrs=lrs).over(base) for lrs in ((0.3,), (0.3, 0.4)))
    assert (one.optim.lr, one.lrs, two.optim.lr, two.lrs) == (0.3, (), base.optim.lr, (0.3, 0.4))


def test_assignments_apply_in_order() -> None:
    assert override(Outer(), ["steps=1", "steps=2"]).steps == 2
