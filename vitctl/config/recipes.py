"""Settings that others have found and published, as rows: what, from where, by which command, and what it gave them.

`expected` is the accuracy that the source reports for these very settings; what other settings gave is not in it.

    VT  google-research/vision_transformer    BV  google-research/big_vision    VT#2  an issue there

A share of the run stands where the source counts epochs: a warm-up of 5 epochs out of 100 is 0.05.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from vitctl.config.augment import PRESETS, AugmentConfig
from vitctl.config.masking import MaskingConfig, Objective
from vitctl.config.model import ModelSpec
from vitctl.config.res import Res
from vitctl.config.train import (
    FinetuneConfig,
    FreshConfig,
    OptimConfig,
    PretrainConfig,
    ScheduleConfig,
    SelfsupConfig,
    ShapeConfig,
    TrainConfig,
)
from vitctl.errors import ConfigError, did_you_mean

Purpose = Literal["pretrain", "finetune", "selfsup"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Recipe:
    name: str
    source: str
    command: str
    config: TrainConfig
    expected: str = ""  # as published for these settings; empty where nothing was
    tuned: str = "vit-b/16"  # model that is fine-tuned
    follows_batch: bool = False  # the lr is for the recipe's batch, and grows in proportion to another one

    @property
    def purpose(self) -> Purpose:
        return self.config.command

    @property
    def model(self) -> str:
        return self.config.model if isinstance(self.config, FreshConfig) else self.tuned


def recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; {did_you_mean(name, RECIPES)}; vitctl recipes lists them")
    return RECIPES[name]


def choose(
    purpose: Purpose,
    model: ModelSpec,
    examples: int,
    objective: Objective | None = None,
    *,
    digits: bool = False,
    paper: bool = False,
) -> Recipe:
    """The recipe for this model and amount of data. The resolution stays that of the data, or of the weights.

    `paper`: the weights that are fine-tuned are the paper's own.
    """
    row = for_data(RECIPES[name_for(purpose, model, examples, objective, digits, paper)], model, examples)
    config: Any = replace(row.config, res=None)
    if row.name == "digits-large":  # as few patches as there can be: an 8x8 digit fits into one
        config = replace(config, res=Res(model.reach * math.ceil(DIGIT / model.reach)))
    if isinstance(config, FreshConfig):
        config = replace(config, model=model.name)
        if model.family in ("bit", "timm"):  # their head and positions cannot be chosen
            config = replace(config, head=None, positions=None, hidden=False)
    return replace(row, config=config)


def for_data(row: Recipe, model: ModelSpec, examples: int) -> Recipe:
    """The recipe with the batch, the length and the lr that suit the data, if it leaves them open."""
    if row.name != ANY_WEIGHTS:
        return row
    batch = 2 ** min(7, max(3, int(math.log2(max(1, examples / 8)))))
    epochs = min(40 if examples >= 64 else 30, max(5, round(900 / math.sqrt(examples))))
    haste = max(1.0, 500 / (epochs * math.ceil(examples / batch)))  # of few images, each step has to do more
    lr = float(f"{5e-4 * math.sqrt(haste * batch / 128 * 384 / max(model.dim, 192)):.2g}")
    optim, drop_path = replace(row.config.optim, lr=lr), 0.1 if examples >= 1000 else 0.0
    return replace(row, config=replace(row.config, batch=batch, epochs=epochs, optim=optim, drop_path=drop_path))


def name_for(
    purpose: Purpose, model: ModelSpec, examples: int, objective: Objective | None, digits: bool, paper: bool
) -> str:
    if purpose == "selfsup":
        names = ("mae-small", "mae/pretrain-b") if objective == "mae" else ("masked-small", "paper/masked")
        return names[0] if examples < UNDER_SMALL else names[1]
    if purpose == "finetune":
        paper = paper or examples >= MANY_LABELS
        return next(name for fewer, name in TRANSFERS if examples < fewer) if paper else ANY_WEIGHTS
    if digits:
        return "digits" if model.family == "vit" and model.dim < WIDE else "digits-large"
    if examples < MANY or model.family != "bit":
        return next(name for fewer, name in PRETRAINING if examples < fewer)
    return "paper/r50x1-jft"


MANY = 2_000_001
WIDE = 768  # a width at which an epoch of digits takes minutes on a laptop
DIGIT = 16  # pixels a side, of 8 that were scanned
UNDER_SMALL = 200_000
PRETRAINING = ((UNDER_SMALL, "small"), (MANY, "paper/vit-i1k"), (float("inf"), "paper/vit-b-i21k"))
ANY_WEIGHTS = "finetune"  # for weights of any origin
MANY_LABELS = 100_000
PAPER_TRANSFER = "transfer/500"
TRANSFERS = ((10_000, "transfer/500"), (100_000, "transfer/10k"), (float("inf"), "transfer/20k"))


# --- "An Image is Worth 16x16 Words", arXiv 2010.11929 ---------------------------------------------------------------

# Table 3. Its Adam is flax.optim.Adam, which takes lr * wd * w off the weights beside Adam's own step: AdamW's meaning
# ("lr"; BV's gsam config says so of the paper's 0.3). As part of the gradient ("l2") a wd of 0.1 or 0.3 trains nothing
# (timm#252, timm#270). Which parameters decay is not stated: kernels, as in BV. The loss of ImageNet-21k and JFT is
# sigmoid (asked for both, and answered, in VT#34), the bias of the head begins at -10 (VT#2), its hidden layer is as
# wide as the model (VT#124), and the straight line ends at an lr of 1e-5 (VT#2, and the default in VT utils.py).
BATCH, WARMUP, LINEAR_END = 4096, 10_000, 1e-5


def table_3(data: str, name: str, model: str, epochs: float, lr: float, wd: float, dropout: float,
            expected: str) -> Recipe:  # fmt: skip
    is_imagenet = data == "i1k"  # clipped, and along a cosine
    line, cosine = (
        ScheduleConfig(kind="linear", warmup=WARMUP, end=LINEAR_END / lr),
        ScheduleConfig(kind="cosine", warmup=WARMUP),
    )
    config = PretrainConfig(
        model=model,
        res=Res(224),
        batch=BATCH,
        epochs=epochs,
        dropout=dropout,
        loss="sigmoid",
        head_bias=-10.0,
        hidden="vit" in model,
        optim=OptimConfig(
            name="adam", lr=lr, beta1=0.9, beta2=0.999, weight_decay=wd, decay="lr", clip=float(is_imagenet)
        ),
        schedule=cosine if is_imagenet else line,
        augment=PRESETS["inception"],  # VT#142
    )
    folder = {"jft": "jft", "i21k": "imagenet21k", "i1k": "imagenet"}[data]
    return Recipe(
        f"paper/{name}",
        SOURCES[data],
        f"vitctl pretrain --model {model} --recipe paper/{name} --data {folder}/",
        config,
        expected,
    )


SOURCES = {
    "jft": "arXiv 2010.11929, Table 3, JFT; loss and head by vision_transformer#2, #34, #124",
    "i21k": "arXiv 2010.11929, Table 3, ImageNet-21k; loss and head by vision_transformer#2, #34, #124",
    "i1k": "arXiv 2010.11929, Table 3, ImageNet; loss, not stated, by vision_transformer#89, big_vision's gsam",
}
SCORES = "ImageNet after fine-tuning at 384"
PAPER = [  # data, name, model, epochs, lr, weight decay, dropout
    table_3("jft", "vit-b16-jft", "vit-b/16", 7, 8e-4, 0.1, 0.0, f"84.15% {SCORES} (Table 5)"),
    table_3("jft", "vit-b32-jft", "vit-b/32", 7, 8e-4, 0.1, 0.0, f"80.73% {SCORES} (Table 5)"),
    table_3("jft", "vit-l32-jft", "vit-l/32", 7, 6e-4, 0.1, 0.0, f"84.37% {SCORES} (Table 5)"),
    table_3("jft", "vit-l16-jft", "vit-l/16", 7, 4e-4, 0.1, 0.0, ""),
    table_3("jft", "vit-l16-jft-14ep", "vit-l/16", 14, 4e-4, 0.1, 0.0, f"87.12% {SCORES} (Table 5)"),
    table_3("jft", "vit-h14-jft", "vit-h/14", 14, 3e-4, 0.1, 0.0, f"88.04% {SCORES} (Table 5)"),
    table_3("jft", "r50x1-jft", "bit-r50x1", 7, 1e-3, 0.1, 0.0, f"77.54% {SCORES} (Table 6)"),
    table_3("jft", "r50x2-jft", "bit-r50x2", 7, 1e-3, 0.1, 0.0, ""),
    table_3("jft", "r101x1-jft", "bit-r101x1", 7, 8e-4, 0.1, 0.0, ""),
    table_3("jft", "r152x1-jft", "bit-r152x1", 7, 6e-4, 0.1, 0.0, ""),
    table_3("jft", "r152x2-jft", "bit-r152x2", 7, 6e-4, 0.1, 0.0, f"84.97% {SCORES} (Table 6)"),
    table_3("jft", "r50+vit-b32-jft", "r50+vit-b/32", 7, 8e-4, 0.1, 0.0, f"84.90% {SCORES} (Table 6)"),
    table_3("jft", "r50+vit-b16-jft", "r50+vit-b/16", 7, 8e-4, 0.1, 0.0, f"85.58% {SCORES} (Table 6)"),
    table_3("jft", "r50+vit-l32-jft", "r50+vit-l/32", 7, 2e-4, 0.1, 0.0, f"85.68% {SCORES} (Table 6)"),
    table_3("jft", "r50+vit-l16-jft", "r50+vit-l/16", 7, 4e-4, 0.1, 0.0, f"86.60% {SCORES} (Table 6)"),
    table_3("jft", "r50+vit-l16-jft-14ep", "r50+vit-l/16", 14, 4e-4, 0.1, 0.0, f"87.12% {SCORES} (Table 6)"),
    table_3("i21k", "vit-b-i21k", "vit-b/16", 90, 1e-3, 0.03, 0.1,
            "47.88% on its own val split; B/32 44.04% (vision_transformer#62)"),
    table_3("i21k", "vit-l-i21k-30ep", "vit-l/16", 30, 1e-3, 0.03, 0.1, ""),
    table_3("i21k", "vit-l-i21k-90ep", "vit-l/16", 90, 1e-3, 0.03, 0.1,
            "49.90% on its own val split; L/32 45.42% (vision_transformer#62, which does not say the epochs)"),
    table_3("i1k", "vit-i1k", "vit-b/16", 300, 3e-3, 0.3, 0.1,
            "74.79% ImageNet at 224; B/32 69.19%, L/16 72.59%, L/32 66.90% (vision_transformer#62)"),
]  # fmt: skip


def sgd(lr: float, steps: int, warmup: int, **options: object) -> FinetuneConfig:
    """How all of the paper's models are fine-tuned: section 4.1; the warm-up is that of VT, and BV transfer.py."""
    config = FinetuneConfig(
        res=Res(384),
        batch=512,
        steps=steps,
        optim=OptimConfig(name="sgd", lr=lr, momentum=0.9, weight_decay=0.0, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=warmup),
        augment=PRESETS["inception"],  # VT input_pipeline.py
    )
    return replace(config, **options)  # type: ignore[arg-type]


def table_4(
    name: str, config: FinetuneConfig, expected: str, source: str = "arXiv 2010.11929, Table 4", model: str = "vit-b/16"
) -> Recipe:
    data = {"imagenet-512": "imagenet", "imagenet-518": "imagenet"}.get(name, name)
    command = f"vitctl finetune --from weights.npz --recipe paper/{name} --data {data}/"
    return Recipe(f"paper/{name}", source, command, config, expected, model)


LARGE = (0.003, 0.01, 0.03, 0.06)
SMALL = (0.001, 0.003, 0.01, 0.03)
TABLE_2 = "arXiv 2010.11929, Tables 2 and 4: a higher resolution and Polyak averaging"
PAPER += [
    table_4("imagenet", sgd(0.03, 20_000, 500, lrs=LARGE), "83.97% with B/16 of ImageNet-21k (Table 5)"),
    table_4("cifar10", sgd(0.01, 10_000, 500, lrs=SMALL), "98.95% with B/16 of ImageNet-21k (Table 5)"),
    table_4("cifar100", sgd(0.01, 10_000, 500, lrs=SMALL), "91.67% with B/16 of ImageNet-21k (Table 5)"),
    table_4("pets", sgd(0.01, 500, 100, lrs=SMALL), "94.43% with B/16 of ImageNet-21k (Table 5)"),
    table_4("flowers", sgd(0.01, 500, 100, lrs=SMALL), "99.38% with B/16 of ImageNet-21k (Table 5)"),
    table_4("imagenet-512", sgd(0.03, 20_000, 500, lrs=LARGE, res=Res(512), ema=0.9999),
            "85.30% with L/16 of ImageNet-21k, 87.76% with that of JFT (Table 2)", TABLE_2, "vit-l/16"),
    table_4("imagenet-518", sgd(0.03, 20_000, 500, lrs=LARGE, res=Res(518), ema=0.9999),
            "88.55% with H/14 of JFT (Table 2)", TABLE_2, "vit-h/14"),
    Recipe("vtab-1k",
           "arXiv 2010.11929, Table 4, VTAB: one lr, 384 for all tasks; no crops and flips, which change some labels",
           "vitctl finetune --from weights.npz --recipe vtab-1k --data task/",
           sgd(0.01, 2_500, 500, limit=1000, limit_draw="fixed", augment=PRESETS["none"]),
           "72.72% with L/16 of ImageNet-21k, the mean of 19 tasks (Table 2)", "vit-l/16"),
]  # fmt: skip


# --- the authors' own shorter ways, and the middle of them, which is taken where nothing is named --------------------


def vit_jax(data: str, lr: float, steps: int, expected: str) -> Recipe:
    return Recipe(
        f"vit_jax/{data}-{steps}",
        f"vision_transformer README.md, short schedules; lr of configs/vit.py:b16,{data}",
        f"vitctl finetune --from ViT-B_16.npz --recipe vit_jax/{data}-{steps} --data {data}/",
        sgd(lr, steps, steps // 10, eval_crop="vit_jax"),
        f"{expected} with B/16 of ImageNet-21k",
    )


def transfer(name: str, lr: float, steps: int, warmup: int, size: str) -> Recipe:
    return Recipe(
        f"transfer/{name}",
        f"arXiv 2010.11929, Table 4: the steps for {size} images, an lr of its grid, the resolution of the weights",
        f"vitctl finetune --from weights.npz --recipe transfer/{name} --data images/",
        sgd(lr, steps, warmup, res=None),
    )


SHORT = [
    vit_jax("cifar10", 0.01, 500, "98.59%"),
    vit_jax("cifar10", 0.01, 1000, "98.86%"),
    vit_jax("cifar100", 0.03, 500, "89.17%"),
    vit_jax("cifar100", 0.03, 1000, "91.15%"),
    transfer("500", 0.01, 500, 100, "under 10,000"),
    transfer("10k", 0.01, 10_000, 500, "under 100,000"),
    transfer("20k", 0.03, 20_000, 500, "100,000 and more"),
]


# --- "How to train your ViT?", arXiv 2106.10270, and big_vision ------------------------------------------------------

# BV's wd does not grow with the peak of the lr ("fixed"): its 1e-4 is the 0.1 in AugReg's names of files, at lr 1e-3.


def augreg(model: str, file: str, expected: str) -> Recipe:
    """`file` is the name of the weights that gave `expected`, in gs://vit_models/augreg/; it holds their settings."""
    said = dict(part.split("_", 1) for part in file.split("-")[3:])
    lr = float(said["lr"])
    config = PretrainConfig(
        model=model,
        res=Res(224),
        batch=4096,
        epochs=300,
        dropout=float(said["do"]),
        drop_path=float(said["sd"]),
        loss="sigmoid",
        head_bias=-10.0,
        optim=OptimConfig(name="adam", lr=lr, weight_decay=lr * float(said["wd"]), decay="fixed", clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=10_000),
        augment=PRESETS[f"augreg-{said['aug']}"],
        eval_crop="big_vision",
    )
    name = f"augreg/{model.replace('vit-', '').replace('/', '')}-i21k"
    return Recipe(
        name,
        f"arXiv 2106.10270; big_vision configs/vit_i21k.py; {file}",
        f"vitctl pretrain --model {model} --recipe {name} --data imagenet21k/",
        config,
        f"{expected} {SCORES}",
    )


AUGREG = [  # the table of recommended checkpoints in VT README.md
    augreg("vit-ti/16", "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", "78.22%"),
    augreg("vit-s/32", "S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0", "79.58%"),
    augreg("vit-s/16", "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0", "83.73%"),
    augreg("vit-b/32", "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "83.59%"),
    augreg("vit-b/16", "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", "85.49%"),
    augreg("vit-l/16", "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0", "85.59%"),
    augreg("r+vit-ti/16", "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", "75.40%"),
    augreg("r26+vit-s/32", "R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "83.85%"),
    augreg("r50+vit-l/32", "R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1", "85.99%"),
]

BIG_VISION = PretrainConfig(
    res=Res(224),
    eval_crop="big_vision",
    batch=4096,
    epochs=300,
    optim=OptimConfig(name="adam", lr=1e-3, weight_decay=1e-4, decay="fixed", clip=1.0),
    schedule=ScheduleConfig(kind="cosine", warmup=10_000),
)
RESIZED = AugmentConfig(crop="resize-small", crop_small=448 / 384, flip=0.5)  # resmall_crop


def bv_transfer(data: str, lr: float, steps: int, warmup: int, augment: AugmentConfig, expected: str) -> Recipe:
    return Recipe(
        f"big_vision/{data}",
        "big_vision configs/transfer.py: the lr and crop that were best on its minival split",
        f"vitctl finetune --from B_32.npz --recipe big_vision/{data} --data {data}/",
        sgd(lr, steps, warmup, augment=augment, eval_crop="big_vision/transfer"),
        f"{expected} with B/32 of AugReg, the mean of 5 runs",
        "vit-b/32",
    )


AUGREG += [
    Recipe("big_vision/vit-s16-i1k", "arXiv 2205.01580; big_vision configs/vit_s16_i1k.py",
           "vitctl pretrain --model vit-s/16 --recipe big_vision/vit-s16-i1k --data imagenet/",
           replace(BIG_VISION, model="vit-s/16", batch=1024, epochs=90, head="gap", positions="sincos", hidden=True,
                   augment=PRESETS["vit-s16-i1k"]),
           "76.5% ImageNet at 224"),
    Recipe("big_vision/vit-i1k",
           "arXiv 2106.10270 without dropout and drop path; big_vision configs/vit_i1k.py, whose class token has no "
           "position, as this one has",
           "vitctl pretrain --model vit-b/16 --recipe big_vision/vit-i1k --data imagenet/",
           replace(BIG_VISION, hidden=True, loss="sigmoid", head_bias=-6.9, augment=PRESETS["augreg-medium2"]),
           "about 79% ImageNet at 224 (big_vision#7)"),
    Recipe("big_vision/vit-i21k", "big_vision configs/vit_i21k.py:variant=B/16",
           "vitctl pretrain --model vit-b/16 --recipe big_vision/vit-i21k --data imagenet21k/",
           replace(BIG_VISION, head="gap", loss="sigmoid", head_bias=-10.0, augment=PRESETS["augreg-light2"])),
    bv_transfer("imagenet", 0.03, 20_000, 500, PRESETS["inception"], "83.27%"),
    bv_transfer("cifar10", 0.003, 10_000, 500, RESIZED, "98.55%"),
    bv_transfer("cifar100", 0.01, 10_000, 500, RESIZED, "91.35%"),
    bv_transfer("pets", 0.003, 500, 100, PRESETS["inception"], "93.78%"),
    bv_transfer("flowers", 0.003, 500, 100, PRESETS["inception"], "99.43%"),
]  # fmt: skip


# --- "DeiT III: Revenge of the ViT", arXiv 2204.07118 ----------------------------------------------------------------

# Theirs is LAMB at 3e-3 to 4e-3, with LayerScale, repeated augmentation, and a target of 1 for both classes of a
# mixture. Ours has none of these, so what they got is not what this gives, and is not told. The lr is by the rule of
# DeiT's own AdamW: main.py's default of 5e-4 for 512 images. The other numbers are those of the commands in
# README_revenge.md, which clip nothing. Their cosine ends at --min-lr, 1e-5 unless set.
REVENGE = (
    "arXiv 2204.07118; deit README_revenge.md; but AdamW by DeiT's rule (lr 5e-4 for 512 images of a batch) in place "
    "of LAMB, no LayerScale, no repeated augmentation: nobody has measured this"
)
DEIT_LR = 5e-4 / 512  # for an image of a batch


def deit3(name: str, model: str, res: int, drop_path: float) -> Recipe:
    batch, lr = 2048, 2048 * DEIT_LR
    config = PretrainConfig(
        model=model,
        res=Res(res),
        batch=batch,
        epochs=800,
        drop_path=drop_path,
        loss="sigmoid",
        head_std=0.02,
        optim=OptimConfig(name="adam", lr=lr, weight_decay=0.05, decay="lr"),
        schedule=ScheduleConfig(kind="cosine", warmup=5 / 800, end=1e-5 / lr),
        augment=PRESETS["deit3"],
        eval_crop="deit3",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    command = f"vitctl pretrain --model {model} --recipe deit3/{name} --data imagenet/"
    return Recipe(f"deit3/{name}", REVENGE, command, config, follows_batch=True)


def deit3_finetune(name: str, model: str, res: int, drop_path: float, expected: str) -> Recipe:
    config = FinetuneConfig(
        res=Res(res),
        keep_head="if-same",  # main.py drops it only where its shape differs
        batch=512,
        epochs=20,
        drop_path=drop_path,
        smoothing=0.1,
        optim=OptimConfig(name="adam", lr=1e-5, weight_decay=0.1, decay="lr"),
        schedule=ScheduleConfig(kind="cosine", warmup=5 / 20, end=1.0),  # --lr and --min-lr are the same there
        augment=replace(PRESETS["mae-finetune"], erase=0.0),  # the same --aa; --reprob 0
        eval_crop="deit3",
    )
    command = f"vitctl finetune --from runs/LATEST --recipe deit3/{name} --data imagenet/"
    source = "arXiv 2204.07118; deit README_revenge.md (AdamW)"
    return Recipe(f"deit3/{name}", source, command, config, f"{expected}, from their weights", model)


DEIT = [
    deit3("s16", "vit-s/16", 224, 0.05),
    deit3("b16", "vit-b/16", 192, 0.2),
    deit3("l16", "vit-l/16", 192, 0.45),
    deit3_finetune("finetune-s", "vit-s/16", 384, 0.0, "83.4% ImageNet at 384"),
    deit3_finetune("finetune-b", "vit-b/16", 224, 0.2, "83.8% ImageNet at 224"),
    deit3_finetune("finetune-l", "vit-l/16", 224, 0.45, "84.9% ImageNet at 224"),
]


# --- "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377 --------------------------------------------


def mae(name: str, model: str, epochs: int, blr: float, layer_decay: float, drop_path: float, expected: str) -> Recipe:
    """blr is for 256 images; the lr grows with the batch."""
    batch = 1024
    lr = blr * batch / 256
    config = FinetuneConfig(
        res=Res(224),
        head="gap",
        norm="pooled",  # models_vit.py with global_pool
        batch=batch,
        epochs=epochs,
        drop_path=drop_path,
        head_std=2e-5,  # main_finetune.py
        smoothing=0.1,
        optim=OptimConfig(name="adam", lr=lr, weight_decay=0.05, decay="lr", layer_decay=layer_decay),
        schedule=ScheduleConfig(kind="cosine", warmup=5 / epochs, end=1e-6 / lr),  # --min_lr
        augment=PRESETS["mae-finetune"],
        eval_crop="mae",
    )
    command = f"vitctl finetune --from mae_pretrain.pth --recipe mae/{name} --data imagenet/"
    source = f"arXiv 2111.06377, Table 9; mae FINETUNE.md; lr {blr:g} for 256 images of a batch"
    return Recipe(f"mae/{name}", source, command, config, expected, model, follows_batch=True)


MAE = [
    mae("finetune-b", "vit-b/16", 100, 5e-4, 0.65, 0.1, "83.57% ImageNet at 224, the mean of 4 runs; the best 83.66%"),
    mae("finetune-l", "vit-l/16", 50, 1e-3, 0.75, 0.2, "85.87% ImageNet at 224, the mean of 4 runs; the best 85.95%"),
    mae("finetune-h", "vit-h/14", 50, 1e-3, 0.75, 0.3, "86.93% ImageNet at 224"),
]


# --- without labels --------------------------------------------------------------------------------------------------

# Appendix B.1.2. Its weight decay, and whether it clips, are not told: neither is done. Crop and flip: VT#103.
MASKED = [
    Recipe(
        "paper/masked",
        "arXiv 2010.11929, appendix B.1.2; augmentation VT#103",
        "vitctl selfsup --model vit-b/16 --recipe paper/masked --data jft/",
        SelfsupConfig(
            model="vit-b/16",
            res=Res(224),
            objective="mean-color",
            batch=BATCH,
            steps=1_000_000,
            optim=OptimConfig(name="adam", lr=2e-4),
            schedule=ScheduleConfig(kind="cosine", warmup=WARMUP),
            augment=PRESETS["inception"],
        ),
        "79.9% ImageNet after fine-tuning, with JFT",
    )
]


def mae_pretraining(name: str, model: str, expected: str = "") -> Recipe:
    """arXiv 2111.06377, Table 8: base lr 1.5e-4 for 256 images."""
    config = SelfsupConfig(
        model=model,
        res=Res(224),
        objective="mae",
        masking=MaskingConfig(ratio=0.75, masked=1.0, swapped=0.0),
        positions="sincos-mae",
        batch=4096,
        epochs=800,
        optim=OptimConfig(name="adam", lr=1.5e-4 * 4096 / 256, beta2=0.95, weight_decay=0.05, decay_on="tables"),
        schedule=ScheduleConfig(kind="cosine", warmup=40 / 800),
        init="mae",
        shape=ShapeConfig(gelu="erf"),  # timm's Block
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment=AugmentConfig(crop="random-resized", crop_area=(0.2, 1.0), filter="bicubic", flip=0.5),
    )
    command = f"vitctl selfsup --model {model} --recipe mae/{name} --data imagenet/"
    source = (
        "arXiv 2111.06377, Table 8; mae PRETRAIN.md and models_mae.py; lr 1.5e-4 for 256 images of a batch; the "
        "weights that they released have 1,600 epochs"
    )
    return Recipe(f"mae/{name}", source, command, config, expected, follows_batch=True)


MASKED += [
    mae_pretraining("pretrain-b", "vit-b/16"),
    mae_pretraining("pretrain-l", "vit-l/16", "85.5% ImageNet by mae/finetune-l"),
    mae_pretraining("pretrain-h", "vit-h/14"),
]


# --- ours ------------------------------------------------------------------------------------------------------------

DIGITS = PretrainConfig(
    model="vit-ti/8",
    batch=64,
    epochs=40,
    head="gap",
    positions="sincos",
    head_std=0.02,
    smoothing=0.1,
    optim=OptimConfig(name="adam", lr=1e-3, weight_decay=0.05, decay="lr", clip=1.0),
    schedule=ScheduleConfig(kind="cosine", warmup=0.1),
    augment=AugmentConfig(crop="random-resized", crop_area=(0.6, 1.0), crop_ratio=(4 / 5, 5 / 4)),
)
DIGITS_FINETUNE = FinetuneConfig(
    batch=64,
    epochs=4,
    head_std=0.02,
    smoothing=0.1,
    optim=replace(DIGITS.optim, lr=3e-4),
    schedule=DIGITS.schedule,
    augment=DIGITS.augment,
)
MASKED_SMALL = SelfsupConfig(
    model="vit-s/16",
    objective="mean-color",
    batch=128,
    epochs=200,
    head="gap",
    positions="sincos",
    optim=OptimConfig(name="adam", lr=1e-3, weight_decay=0.05, clip=1.0),
    schedule=ScheduleConfig(kind="cosine", warmup=0.1),
    augment=AugmentConfig(crop="random-resized", crop_area=(0.3, 1.0), filter="bicubic", flip=0.5),
)
OURS = [
    Recipe(
        "digits",
        "vitctl: for scikit-learn's digits, and what is as small; digits are not flipped",
        "vitctl pretrain --model vit-ti/8 --recipe digits --data digits",
        DIGITS,
    ),
    Recipe(
        "digits-large",
        "vitctl: for the same with a model of ViT-B's size, in minutes on a laptop",
        "vitctl pretrain --model vit-b/16 --recipe digits-large --data digits",
        replace(DIGITS, model="vit-b/16", res=Res(16), epochs=6, smoothing=0.0, optim=replace(DIGITS.optim, lr=3e-4)),
    ),
    Recipe(
        "digits-finetune",
        "vitctl: for a model of digits at another resolution, in a few epochs",
        "vitctl finetune --from runs/digits --recipe digits-finetune --res 24 --data digits",
        DIGITS_FINETUNE,
        tuned="vit-ti/8",
    ),
    Recipe(
        "small",
        "vitctl: from scratch on 1,000 to 100,000 images; after arXiv 2106.10270, 2205.01580 and 2012.12877",
        "vitctl pretrain --model vit-s/16 --recipe small --data images/",
        replace(
            DIGITS,
            model="vit-s/16",
            batch=128,
            epochs=100,
            drop_path=0.1,
            augment=replace(PRESETS["mae-finetune"], crop_area=(0.3, 1.0), erase=0.0, mixup=0.2, mix_probability=0.5),
        ),
    ),
    Recipe(
        ANY_WEIGHTS,
        "vitctl: for any pretrained weights on up to 100,000 images, which decide batch, epochs, and lr",
        "vitctl finetune --from timm:vit_small_patch14_dinov2 --recipe finetune --data photos/",
        replace(
            DIGITS_FINETUNE,
            batch=128,
            epochs=28,
            drop_path=0.1,
            head_first=0.1,
            optim=replace(DIGITS.optim, lr=5e-4, layer_decay=0.75),
            augment=AugmentConfig(crop="random-resized", crop_area=(0.35, 1.0), filter="bicubic", flip=0.5),
        ),
        tuned="vit-s/16",
    ),
    Recipe(
        "small-finetune",
        "vitctl: transfer to 100 to 100,000 images, of weights without labels above all; after arXiv 2111.06377",
        "vitctl finetune --from runs/masked --recipe small-finetune --data images/",
        replace(
            DIGITS_FINETUNE,
            epochs=40,
            drop_path=0.1,
            optim=replace(DIGITS.optim, lr=5e-4, layer_decay=0.75),
            augment=replace(PRESETS["mae-finetune"], crop_area=(0.3, 1.0), erase=0.0, mixup=0.2, mix_probability=0.5),
        ),
        tuned="vit-ti/8",
    ),
    Recipe(
        "masked-small",
        "vitctl: the paper's masked patches on 1,000 to 100,000 images",
        "vitctl selfsup --model vit-s/16 --recipe masked-small --data images/",
        MASKED_SMALL,
    ),
    Recipe(
        "mae-small",
        "vitctl: MAE on 1,000 to 100,000 images, with a decoder to match",
        "vitctl selfsup --model vit-s/16 --recipe mae-small --data images/",
        replace(
            MASKED_SMALL,
            objective="mae",
            masking=MaskingConfig(
                ratio=0.75, masked=1.0, swapped=0.0, decoder_dim=128, decoder_depth=2, decoder_heads=4
            ),
            optim=OptimConfig(name="adam", lr=1e-3, beta2=0.95, weight_decay=0.05),
        ),
    ),
]

RECIPES: dict[str, Recipe] = {row.name: row for row in [*OURS, *PAPER, *SHORT, *AUGREG, *DEIT, *MAE, *MASKED]}
