"""The published numbers, stated once more, so that no row drifts."""

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from vitctl.cli.recipes import print_recipe, print_recipes
from vitctl.config.augment import PRESETS
from vitctl.config.model import model_spec
from vitctl.config.option import as_dict
from vitctl.config.overrides import as_setting, override
from vitctl.config.recipes import RECIPES, choose, recipe
from vitctl.config.res import Res
from vitctl.config.train import FinetuneConfig, PretrainConfig, SelfsupConfig, ShapeConfig
from vitctl.errors import ConfigError
from vitctl.workflows.recipes import list_recipes

TABLE_3 = {  # model, epochs, lr, decay, weight decay, dropout
    "vit-b16-jft": ("vit-b/16", 7, 8e-4, "linear", 0.1, 0.0),
    "vit-b32-jft": ("vit-b/32", 7, 8e-4, "linear", 0.1, 0.0),
    "vit-l32-jft": ("vit-l/32", 7, 6e-4, "linear", 0.1, 0.0),
    "vit-l16-jft": ("vit-l/16", 7, 4e-4, "linear", 0.1, 0.0),
    "vit-l16-jft-14ep": ("vit-l/16", 14, 4e-4, "linear", 0.1, 0.0),
    "vit-h14-jft": ("vit-h/14", 14, 3e-4, "linear", 0.1, 0.0),
    "r50x1-jft": ("bit-r50x1", 7, 1e-3, "linear", 0.1, 0.0),
    "r50x2-jft": ("bit-r50x2", 7, 1e-3, "linear", 0.1, 0.0),
    "r101x1-jft": ("bit-r101x1", 7, 8e-4, "linear", 0.1, 0.0),
    "r152x1-jft": ("bit-r152x1", 7, 6e-4, "linear", 0.1, 0.0),
    "r152x2-jft": ("bit-r152x2", 7, 6e-4, "linear", 0.1, 0.0),
    "r50+vit-b16-jft": ("r50+vit-b/16", 7, 8e-4, "linear", 0.1, 0.0),
    "r50+vit-b32-jft": ("r50+vit-b/32", 7, 8e-4, "linear", 0.1, 0.0),
    "r50+vit-l32-jft": ("r50+vit-l/32", 7, 2e-4, "linear", 0.1, 0.0),
    "r50+vit-l16-jft": ("r50+vit-l/16", 7, 4e-4, "linear", 0.1, 0.0),
    "r50+vit-l16-jft-14ep": ("r50+vit-l/16", 14, 4e-4, "linear", 0.1, 0.0),
    "vit-b-i21k": ("vit-b/16", 90, 1e-3, "linear", 0.03, 0.1),
    "vit-l-i21k-30ep": ("vit-l/16", 30, 1e-3, "linear", 0.03, 0.1),
    "vit-l-i21k-90ep": ("vit-l/16", 90, 1e-3, "linear", 0.03, 0.1),
    "vit-i1k": ("vit-b/16", 300, 3e-3, "cosine", 0.3, 0.1),
}
TABLE_4 = {  # steps, lrs
    "imagenet": (20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "pets": (500, (0.001, 0.003, 0.01, 0.03)),
    "flowers": (500, (0.001, 0.003, 0.01, 0.03)),
}
SHORT = {  # steps, warm-up, what it gave
    "vit_jax/cifar10-500": (500, 50, "98.59%"),
    "vit_jax/cifar10-1000": (1000, 100, "98.86%"),
    "vit_jax/cifar100-500": (500, 50, "89.17%"),
    "vit_jax/cifar100-1000": (1000, 100, "91.15%"),
}
AUGREG = {  # the table of the authors' README: the weights, and ImageNet accuracy of them after fine-tuning at 384
    "l16-i21k": ("vit-l/16", "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0", "85.59%"),
    "b16-i21k": ("vit-b/16", "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", "85.49%"),
    "s16-i21k": ("vit-s/16", "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0", "83.73%"),
    "r50+l32-i21k": ("r50+vit-l/32", "R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1", "85.99%"),
    "r26+s32-i21k": ("r26+vit-s/32", "R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "83.85%"),
    "ti16-i21k": ("vit-ti/16", "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", "78.22%"),
    "b32-i21k": ("vit-b/32", "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "83.59%"),
    "s32-i21k": ("vit-s/32", "S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0", "79.58%"),
    "r+ti16-i21k": ("r+vit-ti/16", "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", "75.40%"),
}
BIG_VISION = {  # lr, steps, warm-up, crop, what it gave
    "imagenet": (0.03, 20_000, 500, "inception", "83.27%"),
    "cifar10": (0.003, 10_000, 500, "resize-small", "98.55%"),
    "cifar100": (0.01, 10_000, 500, "resize-small", "91.35%"),
    "pets": (0.003, 500, 100, "inception", "93.78%"),
    "flowers": (0.003, 500, 100, "inception", "99.43%"),
}
# DeiT's commit 7e160fe. README_revenge.md:81 (S), :412 (B), :745 (L): --batch 256 on 8 GPUs and 64 on 32, --epochs 800,
# --weight-decay 0.05, --warmup-epochs 5, --input-size, --drop-path; main.py:81, --min-lr 1e-5, and :62, no clipping.
# The lr of its AdamW: main.py:71 and :350, 5e-4 * batch / 512. augment.py has ImageNet's mean and deviation.
DEIT_LR = 5e-4 * (256 * 8) / 512
DEIT = {  # model, resolution, drop path, what it gave: told of fine-tuning alone, whose recipe is theirs
    "s16": ("vit-s/16", "224", 0.05, ""),
    "b16": ("vit-b/16", "192", 0.2, ""),
    "l16": ("vit-l/16", "192", 0.45, ""),
    "finetune-s": ("vit-s/16", "384", 0.0, "83.4%"),
    "finetune-b": ("vit-b/16", "224", 0.2, "83.8%"),
    "finetune-l": ("vit-l/16", "224", 0.45, "84.9%"),
}
MAE_PRETRAINING = {  # model, what it gave by which recipe; of 800 epochs, only L is reported (PRETRAIN.md)
    "pretrain-b": ("vit-b/16", ""),
    "pretrain-l": ("vit-l/16", "85.5% ImageNet by mae/finetune-l"),
    "pretrain-h": ("vit-h/14", ""),
}
MAE = {  # model, epochs, lr of 256 images, layer decay, drop path, what it gave on average, and at best
    "finetune-b": ("vit-b/16", 100, 5e-4, 0.65, 0.1, ["83.57%", "83.66%"]),  # 83.63, 83.66, 83.52, 83.46
    "finetune-l": ("vit-l/16", 50, 1e-3, 0.75, 0.2, ["85.87%", "85.95%"]),  # 85.95, 85.87, 85.76, 85.88
    "finetune-h": ("vit-h/14", 50, 1e-3, 0.75, 0.3, ["86.93%"]),
}


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# By what the source calls. big_vision pp/ops_image.py:180 and vision_transformer input_pipeline.py:199: TensorFlow's
# sampler. DeiT augment.py and datasets.py, MAE main_pretrain.py:124 and util/datasets.py: torchvision's, and timm's by
# the same law. Ours: torchvision's.
INCEPTION = ("paper", "vit_jax", "transfer", "augreg", "big_vision")
CROPS = {"big_vision/cifar10": "resize-small", "big_vision/cifar100": "resize-small", "vtab-1k": "none"}


def normalization(config: Any) -> Any:
    return config.mean, config.std


def names(group: str) -> set[str]:
    return {name.partition("/")[2] for name in RECIPES if name.startswith(f"{group}/")}


def test_no_row_is_without_its_numbers_here() -> None:
    assert names("paper") == {*TABLE_3, *TABLE_4, "imagenet-512", "imagenet-518", "masked"}
    assert names("big_vision") == {*BIG_VISION, "vit-s16-i1k", "vit-i1k", "vit-i21k"}
    assert (names("augreg"), names("deit3"), names("mae")) == (set(AUGREG), set(DEIT), {*MAE, *MAE_PRETRAINING})
    rest = {name for name in RECIPES if name.partition("/")[0] not in ("paper", "big_vision", "augreg", "deit3", "mae")}
    assert rest == {
        "digits",
        "digits-large",
        "digits-finetune",
        "finetune",
        "small",
        "small-finetune",
        "vtab-1k",
        "masked-small",
        "mae-small",
        *SHORT,
        "transfer/500",
        "transfer/10k",
        "transfer/20k",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_is_whole(name: str) -> None:
    row = recipe(name)
    config, words = row.config, shlex.split(row.command)
    assert row.name == name
    assert row.source
    assert (config.steps is None) != (config.epochs is None)
    assert config.recipe == ""  # whoever runs it says so
    assert config.optim.lr in (getattr(config, "lrs", ()) or (config.optim.lr,))
    spec = model_spec(row.model)  # a name that is known
    assert config.res is None or not config.res.height % spec.reach
    assert words[:2] == ["vitctl", row.purpose]
    assert words[words.index("--recipe") + 1] == name
    assert "--data" in words
    if row.purpose in ("pretrain", "selfsup"):
        assert words[words.index("--model") + 1] == row.model
    else:
        assert "--from" in words
    assert type(config).from_dict(as_dict(config)) == config


def test_the_names_are_unique() -> None:
    from vitctl.config import recipes

    rows = [
        *recipes.OURS,
        *recipes.PAPER,
        *recipes.SHORT,
        *recipes.AUGREG,
        *recipes.DEIT,
        *recipes.MAE,
        *recipes.MASKED,
    ]
    assert len(rows) == len(RECIPES)


@pytest.mark.parametrize("name", TABLE_3)
def test_table_3(name: str) -> None:
    config = recipe(f"paper/{name}").config
    optim, schedule = config.optim, config.schedule
    row = (config.model, config.epochs, optim.lr, schedule.kind, optim.weight_decay, config.dropout)
    assert row == TABLE_3[name]
    assert (config.batch, schedule.warmup, config.res, config.drop_path) == (4096, 10_000, Res(224), 0.0)
    assert (optim.name, optim.beta1, optim.beta2, optim.decay) == ("adam", 0.9, 0.999, "lr")
    assert optim.clip == (1.0 if name == "vit-i1k" else 0.0)
    assert (config.loss, config.head_bias) == ("sigmoid", -10.0)
    assert config.hidden == ("vit" in config.model)
    assert config.augment == PRESETS["inception"]


@pytest.mark.parametrize("name", [name for name, row in TABLE_3.items() if row[3] == "linear"])
def test_the_straight_line_ends_at_the_authors_lr(name: str) -> None:
    config = recipe(f"paper/{name}").config
    assert config.schedule.end * config.optim.lr == pytest.approx(1e-5)


def is_the_papers_way(config: Any) -> bool:
    """Section 4.1: SGD with momentum 0.9, batch 512, clipped at 1, nothing decays."""
    optim, schedule = config.optim, config.schedule
    found = (optim.name, optim.momentum, optim.clip, optim.weight_decay, config.batch, schedule.kind, config.loss)
    return found == ("sgd", 0.9, 1.0, 0.0, 512, "cosine", "softmax") and not config.dropout


@pytest.mark.parametrize("name", TABLE_4)
def test_table_4(name: str) -> None:
    config = recipe(f"paper/{name}").config
    assert (config.steps, getattr(config, "lrs", ())) == TABLE_4[name]
    assert is_the_papers_way(config)
    assert (config.res, config.ema, config.limit) == (Res(384), 0.0, None)
    assert config.schedule.warmup == (100 if config.steps == 500 else 500)
    assert config.augment == PRESETS["inception"]


@pytest.mark.parametrize(("name", "model", "res"), [("512", "vit-l/16", "512"), ("518", "vit-h/14", "518")])
def test_table_2_is_table_4_at_a_higher_resolution_and_averaged(name: str, model: str, res: str) -> None:
    plain = recipe("paper/imagenet").config
    row = recipe(f"paper/imagenet-{name}")
    assert (row.config, row.model) == (replace(plain, res=Res(int(res)), ema=0.9999), model)


def test_vtab() -> None:
    config = recipe("vtab-1k").config
    assert (config.steps, config.optim.lr, getattr(config, "lrs", ()), config.limit) == (2_500, 0.01, (), 1000)
    assert config.limit_draw == "fixed"  # VTAB-1k is a fixed thousand (arXiv 1910.04867, section 2)
    assert (config.res, config.schedule.warmup) == (Res(384), 500)
    assert is_the_papers_way(config)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_crops_by_the_law_of_its_source(name: str) -> None:
    group = name.partition("/")[0]
    expected = CROPS.get(name, "inception" if group in INCEPTION else "random-resized")
    assert recipe(name).config.augment.crop == expected
    if expected == "inception":  # defaults of TensorFlow's op
        assert (recipe(name).config.augment.ratio, recipe(name).config.augment.crop_area) == ((0.75, 1.33), (0.05, 1.0))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_erases_and_randaugments_as_its_source(name: str) -> None:
    """timm's RandomErasing in mode pixel: mae's main_finetune.py:90. RandAugment of big_vision, or of timm."""
    config = recipe(name).config.augment
    assert (config.erase, config.erase_fill) == (0.25 if name.startswith("mae/finetune") else 0.0, "normal")
    if config.randaug_layers:
        is_theirs = name.partition("/")[0] in ("augreg", "big_vision")
        assert config.randaug_space == ("tf" if is_theirs else "timm-inc")


@pytest.mark.parametrize("name", SHORT)
def test_the_short_schedules(name: str) -> None:
    row = recipe(name)
    found = (row.config.steps, row.config.schedule.warmup, row.expected.split()[0])
    assert found == SHORT[name]
    assert is_the_papers_way(row.config)


@pytest.mark.parametrize("name", AUGREG)
def test_augreg(name: str) -> None:
    """The weights that the accuracy belongs to are named with their settings, and these are the recipe's."""
    row = recipe(f"augreg/{name}")
    config, optim = row.config, row.config.optim
    model, file, accuracy = AUGREG[name]
    assert (config.model, row.source.split("; ")[-1], row.expected.split()[0]) == (model, file, accuracy)
    epochs, lr, aug, wd, dropout, drop_path = re.fullmatch(
        r"\w+-i21k-(\d+)ep-lr_([\d.]+)-aug_(\w+)-wd_([\d.]+)-do_([\d.]+)-sd_([\d.]+)", file
    ).groups()  # type: ignore[union-attr]
    assert (config.epochs, optim.lr) == (float(epochs), float(lr))
    assert config.augment == PRESETS[f"augreg-{aug}"]
    assert optim.weight_decay == pytest.approx(float(wd) * optim.lr)  # of the peak lr: AdamW's meaning of the name
    assert (config.dropout, config.drop_path) == (float(dropout), float(drop_path))
    assert (config.batch, config.loss, config.head_bias) == (4096, "sigmoid", -10.0)
    assert (optim.name, optim.decay, optim.clip) == ("adam", "fixed", 1.0)
    assert (config.schedule.kind, config.schedule.warmup) == ("cosine", 10_000)


def test_heads_begin_at_zero_but_where_the_source_draws_them() -> None:
    drawn = {row.name: row.config.head_std for row in RECIPES.values() if getattr(row.config, "head_std", 0)}
    assert drawn == {
        **{f"deit3/{size}": 0.02 for size in ("s16", "b16", "l16")},
        **{f"mae/finetune-{size}": 2e-5 for size in "blh"},
        **dict.fromkeys(("digits", "digits-large", "digits-finetune", "small", "finetune", "small-finetune"), 0.02),
    }


def test_big_vision() -> None:
    small, i1k, i21k = (recipe(f"big_vision/{name}").config for name in ("vit-s16-i1k", "vit-i1k", "vit-i21k"))
    assert (small.model, small.epochs, small.batch, small.head, small.positions) == (
        "vit-s/16", 90, 1024, "gap", "sincos")  # fmt: skip
    assert (small.augment.mixup, small.augment.randaug_layers, small.augment.randaug_magnitude) == (0.2, 2, 10.0)
    assert recipe("big_vision/vit-s16-i1k").expected.startswith("76.5%")
    assert (i21k.loss, i21k.head_bias, i21k.head, i21k.augment) == ("sigmoid", -10.0, "gap", PRESETS["augreg-light2"])
    assert (i1k.loss, i1k.head_bias, i1k.head, i1k.hidden) == ("sigmoid", -6.9, None, True)
    assert (i1k.model, i1k.augment) == ("vit-b/16", PRESETS["augreg-medium2"])
    assert recipe("big_vision/vit-i1k").expected.startswith("about 79%")
    assert (small.loss, small.head_bias, small.hidden, i21k.hidden) == ("softmax", 0.0, True, False)
    for config in (small, i1k, i21k):
        optim = config.optim
        assert (config.epochs, config.batch) == ((90, 1024) if config is small else (300, 4096))
        assert (config.smoothing, config.dropout, config.drop_path) == (0.0, 0.0, 0.0)
        assert (optim.lr, optim.weight_decay, optim.decay, optim.clip) == (1e-3, 1e-4, "fixed", 1.0)
        assert (config.schedule.kind, config.schedule.warmup, config.res) == ("cosine", 10_000, Res(224))


@pytest.mark.parametrize("name", BIG_VISION)
def test_big_visions_transfers(name: str) -> None:
    row = recipe(f"big_vision/{name}")
    config = row.config
    found = (config.optim.lr, config.steps, config.schedule.warmup, config.augment.crop, row.expected.split()[0])
    assert found == BIG_VISION[name]
    assert (row.model, config.res, config.augment.flip, getattr(config, "lrs", ())) == (
        "vit-b/32",
        Res(384),
        0.5,
        (),
    )
    assert is_the_papers_way(config)


@pytest.mark.parametrize("name", DEIT)
def test_deit3(name: str) -> None:
    row = recipe(f"deit3/{name}")
    config, optim, schedule = row.config, row.config.optim, row.config.schedule
    assert (row.model, str(config.res), config.drop_path, row.expected.partition(" ")[0]) == DEIT[name]
    assert (optim.name, optim.decay, schedule.kind) == ("adam", "lr", "cosine")
    assert schedule.end * optim.lr == pytest.approx(1e-5)
    assert schedule.warmup * (config.epochs or 0) == pytest.approx(5)
    found = (config.epochs, config.batch, config.loss, config.smoothing, optim.lr, optim.weight_decay)
    if row.purpose == "pretrain":
        assert found == (800, 2048, "sigmoid", 0.0, DEIT_LR, 0.05)
        assert (optim.clip, row.follows_batch, normalization(config)) == (0.0, True, IMAGENET)
        assert config.augment == PRESETS["deit3"]
        assert "in place of LAMB" in row.source
        assert "%" not in row.source  # of other settings, theirs is not what this gives
    else:
        assert found == (20, 512, "softmax", 0.1, 1e-5, 0.1)
        assert (config.augment.mixup, config.augment.cutmix, config.augment.erase) == (0.8, 1.0, 0.0)
    assert getattr(config, "keep_head", "never") == ("never" if row.purpose == "pretrain" else "if-same")


@pytest.mark.parametrize("name", MAE)
def test_mae(name: str) -> None:
    row = recipe(f"mae/{name}")
    config, optim, schedule = row.config, row.config.optim, row.config.schedule
    model, epochs, blr, layer_decay, drop_path, expected = MAE[name]
    assert (row.model, config.epochs, config.drop_path, re.findall(r"[\d.]+%", row.expected)) == (
        model, epochs, drop_path, expected)  # fmt: skip
    assert (optim.lr, row.follows_batch) == (pytest.approx(blr * config.batch / 256), True)  # main_finetune.py:270
    assert (optim.layer_decay, optim.weight_decay, optim.decay) == (layer_decay, 0.05, "lr")
    assert (config.batch, config.head, config.norm, config.smoothing) == (1024, "gap", "pooled", 0.1)
    assert schedule.warmup * epochs == pytest.approx(5)
    assert schedule.end * optim.lr == pytest.approx(1e-6)
    assert config.augment == PRESETS["mae-finetune"]


@pytest.mark.parametrize("name", ["digits", "digits-large", "small"])
def test_ours_keep_the_resolution_and_the_length_of_the_data(name: str) -> None:
    config = recipe(name).config
    assert config.res == {"digits-large": Res(16)}.get(name)
    assert config.schedule.warmup < 1


def test_digits_are_not_flipped() -> None:
    assert recipe("digits").config.augment.flip == 0.0


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"recipe 'paper/vit-b16-jtf' is unknown; did you mean 'paper/vit-b16-jft'\?"):
        recipe("paper/vit-b16-jtf")
    with pytest.raises(ConfigError, match=r"recipe 'zzz' is unknown; .*; vitctl recipes lists them"):
        recipe("zzz")


@pytest.mark.parametrize(
    ("purpose", "model", "examples", "digits", "name"),
    [
        ("pretrain", "vit-s/16", 1_437, True, "digits"),
        ("pretrain", "vit-b/16", 200, False, "small"),  # flowers are no digits
        ("pretrain", "vit-b/16", 50_000, False, "small"),
        ("pretrain", "r50+vit-b/16", 200_000, False, "paper/vit-i1k"),
        ("pretrain", "vit-b/16", 1_281_167, False, "paper/vit-i1k"),
        ("pretrain", "bit-r50x1", 1_281_167, False, "paper/vit-i1k"),
        ("pretrain", "vit-b/16", 14_000_000, False, "paper/vit-b-i21k"),
        ("pretrain", "bit-r50x1", 14_000_000, False, "paper/r50x1-jft"),
        ("pretrain", "vit-b/16", 1_437, True, "digits-large"),
        ("pretrain", "r50+vit-b/32", 1_437, True, "digits-large"),
        ("selfsup", "vit-s/16", 1_437, False, "masked-small"),
        ("selfsup", "vit-b/16", 300_000, False, "paper/masked"),
        ("finetune", "vit-b/16", 1_437, False, "finetune"),
        ("finetune", "bit-r50x1", 9_999, False, "finetune"),
        ("finetune", "vit-b/16", 99_999, False, "finetune"),
        ("finetune", "vit-b/16", 1_281_167, False, "transfer/20k"),
    ],
)
def test_one_is_chosen_by_the_data(purpose: Any, model: str, examples: int, digits: bool, name: str) -> None:
    chosen = choose(purpose, model_spec(model), examples, digits=digits)
    assert (chosen.name, chosen.purpose) == (name, purpose)
    assert getattr(chosen.config, "model", model) == model
    assert chosen.config.res == {"digits-large": Res(model_spec(model).reach)}.get(name)  # else only if asked for
    assert getattr(chosen.config, "lrs", ()) == ()  # and so is the time for a grid


@pytest.mark.parametrize("name", MAE_PRETRAINING)
def test_maes_pretraining(name: str) -> None:
    """MAE's commit efb2a80. PRETRAIN.md: --blr 1.5e-4 and --weight_decay 0.05 at 64 * 8 * 8 images, 40 of 800 epochs of
    warm-up, --mask_ratio 0.75; main_pretrain.py:124 (crop of torchvision, bicubic, from 0.2 on), :127 (ImageNet's mean
    and deviation), :166 (lr = blr * batch / 256), :179 (timm's decay, betas 0.9 and 0.95), :68 (--min_lr 0);
    models_mae.py:68 (the positions), :40 (timm's Block, whose GELU is exact) and :65 (first weights)."""
    row = recipe(f"mae/{name}")
    assert (row.follows_batch, normalization(row.config)) == (True, IMAGENET)
    assert (getattr(row.config, "init", ""), getattr(row.config, "shape", ShapeConfig()).gelu) == ("mae", "erf")
    augment = row.config.augment
    assert (augment.crop, augment.crop_area, augment.filter, augment.flip) == (
        "random-resized", (0.2, 1.0), "bicubic", 0.5)  # fmt: skip
    assert (row.config.optim.decay_on, row.config.schedule.end, row.config.optim.clip) == ("tables", 0.0, 0.0)
    config, (model, expected) = row.config, MAE_PRETRAINING[name]
    assert (config.model, row.expected, config.objective, config.masking.ratio) == (model, expected, "mae", 0.75)
    assert (config.optim.lr, config.batch, config.epochs) == (pytest.approx(2.4e-3), 4096, 800)
    assert (config.optim.beta1, config.optim.beta2, config.optim.weight_decay) == (0.9, 0.95, 0.05)
    assert config.schedule.warmup_steps(8000) == 400
    assert (config.masking.decoder_dim, config.masking.decoder_depth, config.masking.decoder_heads) == (512, 8, 16)


def test_the_papers_masked_patches() -> None:
    config = recipe("paper/masked").config
    assert (config.objective, config.steps, config.batch, config.optim.lr) == ("mean-color", 1_000_000, 4096, 2e-4)
    assert (config.schedule.kind, config.schedule.warmup) == ("cosine", 10_000)
    masking = config.masking
    assert (masking.ratio, masking.masked, masking.swapped, masking.bits) == (0.5, 0.8, 0.1, 3)


def test_mae_is_chosen_where_it_is_asked_for() -> None:
    model = model_spec("vit-b/16")
    assert choose("selfsup", model, 5_000, "mae").name == "mae-small"
    assert choose("selfsup", model, 1_281_167, "mae").name == "mae/pretrain-b"


@pytest.mark.parametrize("model", ["bit-r50x1", "timm:resnet18"])
def test_models_that_have_no_choice_of_head_are_given_none(model: str) -> None:
    config = choose("pretrain", model_spec(model), 50_000).config
    assert (config.head, config.positions, config.hidden) == (None, None, False)
    assert replace(config, head="gap", positions="sincos", model="vit-s/16") == recipe("small").config


@pytest.mark.parametrize("images", [5, 40, 200, 1_000, 10_000, 99_999])
def test_the_recipe_for_any_weights_fits_the_data(images: int) -> None:
    config = choose("finetune", model_spec("vit-s/16"), images).config
    steps = config.total_steps(images)
    assert 8 <= config.batch <= 128
    assert config.batch & (config.batch - 1) == 0
    assert 5 <= config.epochs <= 40
    assert (steps >= 40) == (images > 5)
    assert 0 < config.head_steps(steps) < steps
    assert 1e-4 < config.optim.lr < 1e-3
    larger = choose("finetune", model_spec("vit-l/16"), images).config
    assert larger.optim.lr < config.optim.lr


@pytest.mark.parametrize("name", TABLE_4)
def test_what_is_chosen_to_finetune_has_the_steps_of_table_4(name: str) -> None:
    pictures = {"imagenet": 1_281_167, "cifar10": 50_000, "cifar100": 50_000, "pets": 3_312, "flowers": 1_020}[name]
    config = choose("finetune", model_spec("vit-b/16"), pictures, paper=True).config
    assert config.steps == TABLE_4[name][0]
    assert config.optim.lr in TABLE_4[name][1]
    assert is_the_papers_way(config)


# --- the listing ------------------------------------------------------------------------------------------------------


def test_all_are_listed_and_a_part_of_a_name_or_a_glob_picks_some() -> None:
    assert [row.name for row in list_recipes().recipes] == list(RECIPES)
    assert {row.name for row in list_recipes("MAE/").recipes} == {f"mae/{name}" for name in (*MAE, *MAE_PRETRAINING)}
    assert {row.name for row in list_recipes("paper/*i21k*").recipes} == {
        "paper/vit-b-i21k", "paper/vit-l-i21k-30ep", "paper/vit-l-i21k-90ep"}  # fmt: skip
    assert [row.name for row in list_recipes("paper/cifar10").recipes] == ["paper/cifar10"]  # not cifar100 too
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        list_recipes("digts")


START = {
    "pretrain": lambda model: PretrainConfig(model=model),
    "selfsup": lambda model: SelfsupConfig(model=model),
    "finetune": lambda _: FinetuneConfig(),
}


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_listed_makes_the_recipe_when_it_is_set(name: str) -> None:
    (row,) = list_recipes(name).recipes
    exact = {"schedule.end", "schedule.warmup", "augment.crop_ratio", "augment.crop_small"}  # more digits than shown
    texts = {key: ",".join(map(repr, value)) if isinstance(value, tuple) else repr(value) if key in exact
             else as_setting(value, 6) for key, value in row.settings.items()}  # fmt: skip
    made = override(START[row.purpose](row.model), [f"{key}={text}" for key, text in texts.items()])
    assert made == RECIPES[name].config


def test_the_tables() -> None:
    rows = list_recipes("mae").recipes
    table = print_recipes(rows)
    assert [column.header for column in table.columns] == ["recipe", "purpose", "source", "expected"]
    assert table.row_count == len(rows)
    about, settings = print_recipe(rows[0])
    assert about.row_count == 6
    assert settings.row_count == len(rows[0].settings)


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (0.00075, "0.00075"), ((0.05, 1.0), "0.05,1"), (500, "500"), ("gap", "gap")]
)
def test_a_setting_is_shown_as_set_takes_it(value: object, text: str) -> None:
    assert as_setting(value, 6) == text


def test_transfer_to_small_sets() -> None:
    """AdamW with a decay over the layers; the mixing and augmentation of `small`."""
    config = recipe("small-finetune").config
    assert (config.optim.name, config.optim.decay, config.optim.lr, config.optim.layer_decay) == (
        "adam",
        "lr",
        5e-4,
        0.75,
    )
    assert config.augment == recipe("small").config.augment
    assert config.head is None  # that of the weights


@pytest.mark.parametrize(("prefix", "crop"), [
    ("vit_jax/", "vit_jax"),  # input_pipeline.py: resize((size, size))
    ("big_vision/vit", "big_vision"),  # configs/vit_*.py: resize_small(256)|central_crop(224)
    ("augreg/", "big_vision"),
    ("mae/finetune", "mae"),  # util/datasets.py: crop_pct = 224 / 256
    ("deit3/", "deit3"),  # README_revenge.md: --eval-crop-ratio 1.0
])  # fmt: skip
def test_recipes_evaluate_as_their_sources(prefix: str, crop: str) -> None:
    chosen = [each for name, each in RECIPES.items() if name.startswith(prefix)]
    assert chosen
    assert {each.config.eval_crop for each in chosen} == {crop}
