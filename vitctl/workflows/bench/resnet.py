"""A plain ResNet-18 of torchvision, trained from scratch for a given time by SGD, with a cosine decay over the time."""

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.training.device import choose_precision
from vitctl.workflows.bench.loops import timm_loader

LR, MOMENTUM, DECAY, BATCH, SMOOTHING = 0.1, 0.9, 5e-4, 128, 0.1
AREA, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)  # of random crops, as in the recipe `small`
WARM_UP = 0.05  # of the time
EVALUATIONS = 5

Point = tuple[float, float]  # minutes, top-1


def train_resnet(train: Path, test: Path, res: int, minutes: float, device: torch.device, seed: int) -> list[Point]:
    """Top-1 on `test` over the minutes; the last point is the result."""
    from torchvision.models import resnet18

    started, budget = time.perf_counter(), 60 * minutes
    torch.manual_seed(seed)
    options: dict[str, Any] = {"scale": AREA, "ratio": RATIO, "color_jitter": None}
    images = sum(path.is_file() for path in train.rglob("*"))
    loader = timm_loader(train, res, min(BATCH, images), device, is_training=True, **options)
    held_out = timm_loader(test, res, BATCH, device, crop_pct=1.0, interpolation="bicubic")
    model = resnet18(num_classes=len(loader.dataset.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY, nesterov=True)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=choose_precision("auto", device) == "bf16")
    points: list[Point] = []
    step_seconds = test_seconds = 0.0

    def clock() -> float:
        return time.perf_counter() - started

    def evaluate() -> None:
        nonlocal test_seconds
        before = clock()
        with bf16:
            top1 = measure_top1(model, held_out, device)
        test_seconds = clock() - before
        points.append((clock() / 60, top1))

    while True:
        for images, labels in loader:
            if clock() + step_seconds + test_seconds > budget:
                evaluate()
                return points
            before, share = clock(), clock() / budget
            scale = min(1.0, share / WARM_UP) * (1 + math.cos(math.pi * share)) / 2
            optimizer.param_groups[0]["lr"] = LR * scale
            with bf16:
                loss = F.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step_seconds = clock() - before
            if share > (len(points) + 1) / (EVALUATIONS + 1):
                evaluate()


@torch.inference_mode()
def measure_top1(model: nn.Module, loader: Any, device: torch.device) -> float:
    model.eval()
    correct = count = 0
    for images, labels in loader:
        correct += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
        count += len(labels)
    model.train()
    return correct / count
