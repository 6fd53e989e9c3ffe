"""How quick models are on this device: in training, for the price of a study; in answering, for the one of speed."""

import time

import torch

from vitctl.config.model import ModelSpec
from vitctl.errors import RunError
from vitctl.models.create import create_model
from vitctl.training.memory import out_of_memory
from vitctl.training.precision import autocast, chosen

TIMED = 16  # pictures in a step that is timed
BATCHES = {"cpu": (1, 8, 32, 64), "cuda": tuple(2**power for power in range(0, 14)), "mps": (1, 8, 32, 128)}
SECONDS = 0.5  # for a batch size


def seconds_a_picture(spec: ModelSpec, device: torch.device) -> float:
    """Of a training step, forward and backward; the second of two."""
    model = create_model(spec.changed(classes=max(2, spec.classes))).to(device)
    images = torch.randn(TIMED, spec.channels, spec.height, spec.width, device=device)
    for _ in range(2):
        started = time.perf_counter()
        with autocast(chosen("auto", device), device):
            loss = model(images).float().square().mean()
        loss.backward()
        waited(device)
        took = time.perf_counter() - started
    return took / TIMED


@torch.inference_mode()
def answers_a_second(spec: ModelSpec, device: torch.device) -> dict[int, float]:
    """{batch: pictures a second}, up to the largest batch that fits."""
    model, rates = create_model(spec).to(device).eval(), {}
    for batch in BATCHES[device.type]:
        try:
            images = torch.randn(batch, spec.channels, spec.height, spec.width, device=device)
            rates[batch] = rate(model, images, device)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            break
    if not rates:
        raise RunError(f"{spec.name}: not even one picture of {spec.height}x{spec.width} fits into memory")
    return rates


def rate(model: torch.nn.Module, images: torch.Tensor, device: torch.device) -> float:
    done, started = 0, 0.0
    with autocast(chosen("auto", device), device):
        while not started or time.perf_counter() - started < SECONDS:
            model(images)
            waited(device)
            if not started:
                started = time.perf_counter()  # the first one warms up
            else:
                done += len(images)
    return done / (time.perf_counter() - started)


def waited(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
