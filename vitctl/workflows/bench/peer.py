"""The peers of several parts: what somebody who knows timm would write with its model, loader and optimizer."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.config.bench import TrainCase
from vitctl.config.model import ModelSpec, model_spec
from vitctl.io.weights import HALF
from vitctl.machine import cores
from vitctl.training.device import Precision, choose_precision
from vitctl.workflows.bench.images import CLASSES

LR, DECAY = 1e-3, 0.05


def case_spec(case: TrainCase) -> ModelSpec:
    return model_spec(case.model, height=case.res, width=case.res, classes=CLASSES)


def bench_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bench_precisions(device: torch.device) -> list[Precision]:
    """float32, and bf16 if it is what --precision auto chooses."""
    return ["float32", "bf16"] if choose_precision("auto", device) == "bf16" else ["float32"]


def timm_model(case: TrainCase, device: torch.device, classes: int = CLASSES) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    spec = case_spec(case)
    model: nn.Module = VisionTransformer(
        spec.height, spec.patch, num_classes=classes, embed_dim=spec.dim, depth=spec.depth, num_heads=spec.heads
    )
    return model.to(device)


def timm_loader(
    folder: Path, res: int, batch: int, device: torch.device | None = None, is_training: bool = False, **options: Any
) -> Any:
    """timm's loader over torchvision's ImageFolder, one worker per core. Without a device it does not prefetch."""
    from timm.data.loader import create_loader
    from torchvision.datasets import ImageFolder

    device = device or torch.device("cpu")
    return create_loader(
        ImageFolder(str(folder)), (3, res, res), batch, is_training=is_training, use_prefetcher=device.type == "cuda",
        num_workers=cores(), mean=HALF[0], std=HALF[1], persistent_workers=True, device=device, **options,
    )  # fmt: skip


def timm_training(case: TrainCase, folder: Path, device: torch.device) -> tuple[nn.Module, Any, Iterator[Any]]:
    """(model, optimizer, batches without end)"""
    from timm.optim import create_optimizer_v2

    loader = timm_loader(folder, case.res, case.batch, device, is_training=True, scale=(0.05, 1.0))
    model = timm_model(case, device, len(loader.dataset.classes))
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return model.train(), create_optimizer_v2(model, "adamw", LR, DECAY), endless


def timm_step(model: nn.Module, optimizer: Any, way: Precision, device: torch.device) -> Callable[[Any, Any], None]:
    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "bf16"):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step
