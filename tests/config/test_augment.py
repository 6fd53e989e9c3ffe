import pytest

from vitctl.config.augment import PRESETS, AugmentConfig, augmentation
from vitctl.config.overrides import override
from vitctl.data.augmentation.boxes import LAWS
from vitctl.errors import ConfigError

NAMES = {
    "none",
    "flip",
    "inception",
    "random-resized",
    "resize-small",
    "augreg-none",
    "augreg-light1",
    "augreg-light2",
    "augreg-medium1",
    "augreg-medium2",
    "augreg-strong1",
    "augreg-strong2",
    "vit-s16-i1k",
    "deit3",
    "deit3-i21k",
    "mae-finetune",
}


def test_the_presets_are_these() -> None:
    assert set(PRESETS) == NAMES


@pytest.mark.parametrize(
    ("level", "layers", "magnitude", "mixup"),
    [
        ("light1", 2, 0, 0.0),
        ("light2", 2, 10, 0.2),
        ("medium1", 2, 15, 0.2),
        ("medium2", 2, 15, 0.5),
        ("strong1", 2, 20, 0.5),
        ("strong2", 2, 20, 0.8),
    ],
)
def test_augreg_levels_are_the_published_ones(level: str, layers: int, magnitude: float, mixup: float) -> None:
    config = augmentation(f"augreg-{level}")
    assert (config.randaug_layers, config.randaug_magnitude, config.mixup) == (layers, magnitude, mixup)
    assert (config.crop, config.flip, config.randaug_space) == ("inception", 0.5, "tf")


def test_each_preset_crops_by_the_law_of_its_source() -> None:
    """big_vision and the paper call TensorFlow's, timm and torchvision have their own; each with its default ratios."""
    laws = {name: (config.crop, config.ratio) for name, config in PRESETS.items() if config.crop in LAWS}
    assert {name for name, law in laws.items() if law == ("inception", (0.75, 1.33))} == {
        "inception", "vit-s16-i1k", *(name for name in NAMES if name.startswith("augreg"))}  # fmt: skip
    assert {name for name, law in laws.items() if law == ("random-resized", (3 / 4, 4 / 3))} == {
        "random-resized", "deit3", "mae-finetune"}  # fmt: skip


def test_without_a_crop_the_filter_is_that_of_the_evaluation() -> None:
    assert [AugmentConfig(crop=crop).kernel for crop in ("none", "inception", "simple")] == [
        "bicubic", "bilinear", "bilinear"]  # fmt: skip
    assert AugmentConfig(filter="bilinear").kernel == "bilinear"


def test_augreg_none_still_crops_and_flips() -> None:
    assert augmentation("augreg-none") == augmentation("inception")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"augmentation 'augreg-medum1' is unknown; did you mean 'augreg-medium1'\?"):
        augmentation("augreg-medum1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", "center"),
        ("filter", "nearest"),
        ("randaug_space", "pil"),
        ("flip", 1.5),
        ("erase", -0.1),
        ("mixup", -1.0),
        ("randaug_layers", -1),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.9, 0.1)),
        ("crop_area", (0.5, 1.1)),
        ("erase_area", (0.5, 0.2)),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (2.0, 1.0)),
        ("crop_small", 0.9),
        ("hue", 0.6),
        ("mix_switch", 2.0),
        ("randaug_probability", -1.0),
        ("crop_pad", -1),
    ],
)
def test_a_field_that_makes_no_sense_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.{field}"):
        AugmentConfig(**{field: value})  # type: ignore[arg-type]


def test_every_field_can_be_set_from_the_command_line() -> None:
    wanted = ["crop=simple", "crop_area=0.2,0.9", "randaug_layers=3", "three=true"]
    config = override(augmentation("mae-finetune"), wanted)
    assert (config.crop, config.crop_area, config.randaug_layers, config.three) == ("simple", (0.2, 0.9), 3, True)


@pytest.mark.parametrize(
    ("config", "mixes"),
    [
        (AugmentConfig(), False),
        (AugmentConfig(mixup=0.2), True),
        (AugmentConfig(cutmix=1.0), True),
        (AugmentConfig(mixup=0.2, mix_probability=0.0), False),
    ],
)
def test_mixes_labels(config: AugmentConfig, mixes: bool) -> None:
    assert config.mixes_labels is mixes


def test_the_summary_tells_what_is_on() -> None:
    assert AugmentConfig().summary() == "none"
    assert AugmentConfig(flip=0.5, mixup=0.2).summary() == "flip=0.5 mixup=0.2"
