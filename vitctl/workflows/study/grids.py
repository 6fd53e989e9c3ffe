"""The paper's studies as grids of cells: the source in the paper, the factors, and how each is drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.config.interpolate import Method
from vitctl.config.masking import Objective
from vitctl.config.overrides import override
from vitctl.config.recipes import TRANSFERS
from vitctl.config.res import Res
from vitctl.config.study import StudyConfig, has_setting
from vitctl.config.train import FinetuneConfig, PretrainConfig, SelfsupConfig, TrainConfig
from vitctl.workflows.study.cells import Cell, Factors, Interpolation, Step, Timing, cell_folder_name
from vitctl.workflows.subcommands import Training

RATES, SGD_RATES = (3e-4, 1e-3, 3e-3), (0.01, 0.03, 0.1)
LITTLE = ("shape.depth=6", "shape.dim=96", "shape.heads=3", "shape.mlp=384")
METHODS: dict[Method, str] = {"official": "interpolated", "fresh": "re-initialized"}
HYBRID = 32  # pixels per token of the small hybrid
SHARED = "shared"  # folder of runs that several cells continue from
LARGE = 96  # image side in pixels from which patches are 16x16
GENTLE = (  # fine-tuning with few steps and few labels: the same rate for all layers, little augmentation
    "optim.layer_decay=1", "optim.lr=0.001", "augment.mix_probability=0", "augment.randaug_layers=0",
    "augment.crop_area=0.5,1",
)  # fmt: skip
AT_THE_END = "eval_every=0"


@dataclass(frozen=True)
class Setting:
    """Settings shared by all cells of a study."""

    config: StudyConfig
    folder: Path
    data: str
    digest: str  # of the data
    side: int  # of the training images, in pixels: a multiple of every patch size of the study
    channels: int
    rows: int  # training images
    classes: int
    steps: int
    seeds: int
    little: bool = False  # a smaller model than the default, to fit more steps into the budget
    embedded: bool = False  # digits: they are not flipped
    val_setting: tuple[str, ...] = ()  # the split to evaluate on, if it is not val

    @property
    def paper(self) -> bool:
        return self.config.scale == "paper"

    @property
    def patch(self) -> int:
        """In pixels: a quarter of the side of small images, 16 for large ones."""
        return 16 if self.side >= LARGE else self.side // 4

    def model(self, size: str | None = None, patch: int | None = None, front: str = "") -> str:
        return f"{front}vit-{size or self.config.size}/{patch or self.patch}"

    @property
    def few_labels(self) -> int:
        """The number of labels: 1% of the images, or 10% if 1% is under ten a class."""
        hundredth = round(0.01 * self.rows)
        return hundredth if hundredth >= 10 * self.classes else max(2 * self.classes, round(0.1 * self.rows))

    @property
    def recipe(self) -> str:
        return "digits" if self.embedded else "small"

    @property
    def default_model(self) -> str:
        return self.model("b" if self.paper else None)

    @property
    def shape(self) -> tuple[str, ...]:
        """The settings of the little model."""
        return LITTLE if self.little else ()

    def pretrain(
        self, folder: Path, seed: int, model: str, *settings: str, share: float = 1.0, **fields: Any
    ) -> Training:
        """At small scale, our recipe for `share` of the affordable steps; at paper scale, the paper's own."""
        config = PretrainConfig(
            model=model,
            recipe="paper/vit-i1k" if self.paper else self.recipe,
            **{**self.common(seed), **self.size, **self.length(share), **fields},
        )
        return self.make_training(config, folder, *settings)

    def selfsup(self, folder: Path, seed: int, objective: Objective) -> Training:
        small, large = ("mae-small", "mae/pretrain-b") if objective == "mae" else ("masked-small", "paper/masked")
        config = SelfsupConfig(
            model=self.default_model,
            objective=objective,
            probe=0,
            recipe=large if self.paper else small,
            **{**self.common(seed), **self.size, **self.length(1.0)},
        )
        upright = ("augment.flip=0",) if self.embedded else ()
        return self.make_training(config, folder, *self.shape, before=upright)

    def finetune(
        self, folder: Path, seed: int, source: Path, *settings: str, share: float = 1.0, **fields: Any
    ) -> Training:
        transfer = next(name for fewer, name in TRANSFERS if self.rows < fewer)
        gentle = () if self.paper or self.embedded else ("optim.layer_decay=1", "optim.lr=0.0003")
        config = FinetuneConfig(
            source=str(source),
            recipe=transfer if self.paper else "digits-finetune" if self.embedded else "small-finetune",
            **{**self.common(seed), **self.length(share), **fields},
        )
        return self.make_training(config, folder, *settings, before=gentle)

    def make_training(
        self, config: TrainConfig, folder: Path, *settings: str, before: tuple[str, ...] = ()
    ) -> Training:
        """Apply the user's settings after those of the recipe and before the varied ones."""
        user = tuple(each for each in self.config.settings if has_setting(type(config), each))
        config = override(config, (AT_THE_END, *self.val_setting, *before, *user, *settings))
        return Training(config, folder / config.command)

    def common(self, seed: int) -> dict[str, Any]:
        device = {} if self.config.device == "auto" else {"device": self.config.device}
        return {"data": self.data, "seed": seed, **device}

    @property
    def size(self) -> dict[str, Res]:
        return {} if self.paper else {"res": Res(self.side)}

    def length(self, share: float) -> dict[str, Any]:
        """Steps and batch that the budget allows; empty if the paper's recipe sets them."""
        if self.paper and self.config.steps is None:
            return {}
        return {"steps": max(2, round(share * self.steps)), "batch": self.config.batch}

    def cell_folders(self, factors: Factors) -> Iterator[tuple[Path, int]]:
        """A folder and its seed, for each seed."""
        for seed in range(self.seeds):
            yield self.folder / "cells" / cell_folder_name(factors, seed), seed

    def folder_for_seed(self, seed: int) -> Path:
        """The folder of the run that cells of one seed continue from; each machine has its own."""
        return self.folder / SHARED / f"cells-{self.config.cells.replace('/', '-of-')}_seed-{seed}"

    def cell(self, factors: Factors, seed: int, folder: Path, *steps: Step) -> Cell:
        plan = {"steps": self.steps, "batch": self.config.batch, "little": self.little, "data_digest": self.digest}
        return Cell(factors, seed, folder, steps, plan)


Grid = Callable[[Setting], Iterator[Cell]]


@dataclass(frozen=True)
class Study:
    """A grid, its x axis and lines, and the paper's result to compare with."""

    title: str
    source: str
    grid: Grid
    x: tuple[str, ...]  # factors, flops or seconds: one panel each
    lines: tuple[str, ...] = ()
    log: bool = False
    conclusion: str = ""  # the paper's result
    score: str = "top1"


def data_size(s: Setting) -> Iterator[Cell]:
    models = ("vit-b/32", "vit-l/32", "bit-r50x1") if s.paper else (s.model("ti"), s.model("s"), "bit-r50x1")
    for model in models:
        for share in (0.1, 0.3, 1.0):  # with few images of many classes, two of these may be the same
            rows = min(s.rows, max(2 * s.classes, round(share * s.rows)))
            factors: Factors = {"model": model, "pictures": rows}
            for folder, seed in s.cell_folders(factors):
                yield s.cell(factors, seed, folder, s.pretrain(folder, seed, model, f"limit={rows}"))


def cells_scaling(s: Setting) -> Iterator[Cell]:
    """Transformers, hybrids and ResNets, for a quarter, half and all of the steps."""
    hybrid = "r50+vit-b/16" if s.paper else s.model("ti", 16, "r+")
    models = dict.fromkeys(("vit-b/32", "vit-b/16", "vit-l/16") if s.paper else (s.model(), s.model("s")), "ViT")
    models |= ({hybrid: "hybrid"} if s.paper or s.side % HYBRID == 0 else {}) | {"bit-r50x1": "ResNet"}
    for model, family in models.items():
        for share in (0.25, 0.5, 1.0):
            factors: Factors = {"family": family, "model": model, "length": share}
            length = (f"epochs={300 * share:g}",) if s.paper and not s.config.steps else ()
            for folder, seed in s.cell_folders(factors):
                yield s.cell(factors, seed, folder, s.pretrain(folder, seed, model, *length, share=share))


def cells_positions(s: Setting) -> Iterator[Cell]:
    kinds = [("none", "stem"), *((kind, added) for kind in ("1d", "2d") for added in ("stem", "every", "shared")),
             ("relative", "every"), ("relative", "shared"), ("rope", "stem")]  # fmt: skip
    for kind, added in kinds:
        factors: Factors = {"positions": kind, "added": added}
        settings = (*s.shape, f"positions={kind}", f"shape.added={added}")
        for folder, seed in s.cell_folders(factors):
            yield s.cell(factors, seed, folder, s.pretrain(folder, seed, s.default_model, *settings))


def cells_head(s: Setting) -> Iterator[Cell]:
    for kind in ("cls", "gap"):
        for lr in RATES:
            factors: Factors = {"head": kind, "lr": lr}
            for folder, seed in s.cell_folders(factors):
                settings = (*s.shape, f"head={kind}", "positions=1d", f"optim.lr={lr}")
                run = s.pretrain(folder, seed, s.default_model, *settings)
                yield s.cell(factors, seed, folder, run)


def cells_shape(s: Setting) -> Iterator[Cell]:
    """One number at a time, around a base."""
    if s.paper:
        base, patch = {"depth": 8, "dim": 1024, "mlp": 2048}, 32
        varied = {"depth": (2, 16, 32), "dim": (512, 2048), "mlp": (1024, 4096), "patch": (16, 56)}
    else:
        base, patch = {"depth": 6, "dim": 192, "mlp": 384}, s.patch
        varied = {"depth": (2, 12), "dim": (64, 384), "mlp": (192, 768), "patch": (patch // 2, 2 * patch)}
    changes = [("base", {}), *((name, {name: value}) for name, values in varied.items() for value in values)]
    for changed, change in changes:
        numbers = base | {"patch": patch} | change
        factors: Factors = {"changed": changed, **numbers}
        settings = [f"shape.{name}={numbers[name]}" for name in base]
        settings.append(f"shape.heads={max(1, numbers['dim'] // 64)}")
        for folder, seed in s.cell_folders(factors):
            run = s.pretrain(folder, seed, s.model(None, numbers["patch"]), "positions=1d", *settings)
            yield s.cell(factors, seed, folder, run)


def cells_optimizer(s: Setting) -> Iterator[Cell]:
    """Pretraining with each optimizer at several learning rates, then the same transfer."""
    sgd = ("optim.name=sgd", "optim.weight_decay=0.0001", "optim.decay=l2")
    target = {"data": s.config.target} if s.config.target else {}
    for model in ("bit-r50x1", "bit-r152x2" if s.paper else s.model()):
        for name, rates, settings in (("adam", RATES, ()), ("sgd", SGD_RATES, sgd)):
            for lr in rates:
                factors: Factors = {"model": model, "optimizer": name, "lr": lr}
                for folder, seed in s.cell_folders(factors):
                    first = s.pretrain(folder, seed, model, *settings, f"optim.lr={lr}")
                    tuned = s.finetune(folder, seed, first.out, share=0.25, **target)
                    yield s.cell(factors, seed, folder, first, tuned)


def cells_selfsup(s: Setting) -> Iterator[Cell]:
    """Training on few labels: after self-supervision on all images, from scratch, and after training on all labels.

    Training on few labels is the shorter run. From scratch, it is as long as that run, or as both runs of the others.
    """
    few, tuned = f"limit={s.few_labels}", 0.25
    settings = () if s.paper else GENTLE
    lengths = {"scratch": tuned} | ({} if s.paper else {"scratch, longer": 1 + tuned})
    for first_run in (*lengths, "mean-color", "downsampled", "pixels", "mae", "labels"):
        factors: Factors = {"first": first_run}
        for folder, seed in s.cell_folders(factors):
            if first_run in lengths:
                run = s.pretrain(folder, seed, s.default_model, *s.shape, few, share=lengths[first_run])
                yield s.cell(factors, seed, folder, run)
                continue
            if first_run == "labels":
                first = s.pretrain(folder, seed, s.default_model, *s.shape)
            else:
                first = s.selfsup(folder, seed, first_run)  # type: ignore[arg-type]
            second = s.finetune(folder, seed, first.out, few, *settings, share=tuned)
            yield s.cell(factors, seed, folder, first, second)


def cells_axial(s: Setting) -> Iterator[Cell]:
    for front, family in (("", "ViT"), ("axial-", "axial")):
        for patch in (32, 16) if s.paper else (s.patch, s.patch // 2):
            model = s.model("b" if s.paper else None, patch, front)
            factors: Factors = {"family": family, "model": model}
            for folder, seed in s.cell_folders(factors):
                run = s.pretrain(folder, seed, model, *s.shape, "head=gap", "positions=1d", "hidden=false")
                yield s.cell(factors, seed, folder, run)


def cells_resolution(s: Setting) -> Iterator[Cell]:
    """Train at half the size; fine-tune at that and larger sizes, with positions interpolated or re-initialized."""
    first = 224 if s.paper else s.side // 2
    model = s.model("b", 16) if s.paper else s.model(None, first // 4)
    for size in (224, 384, 512) if s.paper else (first, first * 3 // 2, first * 2):
        for method, description in METHODS.items():
            if size == first and method != "official":
                continue
            factors: Factors = {"pixels": size, "positions": description}
            for folder, seed in s.cell_folders(factors):
                trained = s.pretrain(s.folder_for_seed(seed), seed, model, *s.shape, "positions=1d", res=Res(first))
                resized = Interpolation(trained.out, folder / "carried.safetensors", Res(size), method)
                tuned = s.finetune(folder, seed, resized.out, share=0.25, res=Res(size))
                yield s.cell(factors, seed, folder, trained, resized, tuned)


def cells_vtab(s: Setting) -> Iterator[Cell]:
    """Every patch file of a folder: train on 1,000 examples, evaluate on all of test."""
    for path in sorted(Path(s.data).rglob("*.h5")):
        factors: Factors = {"group": path.parent.name if path.parent != Path(s.data) else "all", "task": path.stem}
        for folder, seed in s.cell_folders(factors):
            size = () if s.paper else ("res=none",)  # the resolution of the weights
            fields = {**s.common(seed), "data": str(path), "val": "test", **s.length(1.0)}
            config = FinetuneConfig(source=s.config.source, recipe="vtab-1k", **fields)
            run = s.make_training(config, folder, before=size)
            yield s.cell(factors, seed, folder, run)


def cells_speed(s: Setting) -> Iterator[Cell]:
    large = ("vit-b/32", "vit-b/16", "vit-l/32", "vit-l/16", "vit-h/14", "bit-r50x1", "bit-r152x2", "r50+vit-b/16")
    hybrid = [s.model("ti", 16, "r+")] if s.side % HYBRID == 0 else []
    small = (s.model("ti"), s.model("s"), s.model("b"), "bit-r50x1", *hybrid)
    for model in large if s.paper else small:
        larger = 392 if model.endswith("/14") else 384
        for pixels in (224, larger) if s.paper else (s.side, 2 * s.side):
            factors: Factors = {"model": model, "pixels": pixels}
            for folder, seed in s.cell_folders(factors):
                yield s.cell(factors, seed, folder, Timing(model, pixels, s.channels, s.classes, s.config.device))


STUDIES: dict[str, Study] = {
    "data-size": Study("Accuracy against the size of the training set", "Figures 3 and 4", data_size, ("pictures",),
                       ("model",), log=True, conclusion="large models and Transformers gain most from more images"),
    "scaling": Study("Accuracy against compute", "Figure 5", cells_scaling, ("flops", "seconds"), ("model",), log=True,
                     conclusion="ResNets need more compute than Transformers; hybrids lead while small"),
    "positions": Study("Kinds of position embedding", "Table 8", cells_positions, ("positions",), ("added",),
                       conclusion="any position embedding beats none; which one hardly matters"),
    "head": Study("Class token against the mean of the patches", "Figure 9", cells_head, ("lr",), ("head",), log=True,
                  conclusion="both are equally good, each at its own learning rate"),
    "shape": Study("Depth, width, MLP and patch size", "Figure 8, appendix D.2", cells_shape, ("flops",), ("changed",),
                   log=True, conclusion="depth and smaller patches help most, width least"),
    "optimizer": Study("Pretraining with Adam and with SGD", "Table 7, appendix D.1", cells_optimizer, ("lr",),
                       ("model", "optimizer"), log=True, conclusion="Adam is better for ResNets too"),
    "selfsup": Study("What is learned without labels", "appendix B.1.2", cells_selfsup, ("first",),
                     conclusion="masked patches beat scratch, labels beat both"),
    "axial": Study("Attention along rows and columns", "appendix D.6", cells_axial, ("flops", "seconds"), ("family",),
                   log=True, conclusion="axial models are better but need more compute"),
    "speed": Study("Images a second", "Figure 12, appendix D.5", cells_speed, ("pixels",), ("model",), log=True,
                   conclusion="Transformers are as fast as ResNets of their size and fit larger batches",
                   score="images_per_s"),
    "resolution": Study("The resolution of fine-tuning", "section 3.2", cells_resolution, ("pixels",), ("positions",),
                        conclusion="larger images are better; interpolated positions keep what was learned"),
    "vtab": Study("Many tasks of 1,000 examples", "section 4.2, VTAB", cells_vtab, ("task",), ("group",),
                  conclusion="group means: natural, specialized, structured"),
}  # fmt: skip
