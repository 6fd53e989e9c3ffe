"""The speed of models on this device: in training, to plan a study; in inference, for the study `speed`."""

import time

import torch

from vitctl.config.model import ModelSpec
from vitctl.config.recipes import recipe
from vitctl.config.train import PretrainConfig
from vitctl.errors import RunError, is_out_of_memory
from vitctl.models.create import create_model
from vitctl.reporting import SilentReporter
from vitctl.training.device import autocast, choose_precision
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.training.task import make_labeled_task
from vitctl.workflows.train.fresh import make_fresh_weights
from vitctl.workflows.train.start import Data

TIMED, MOST = 2048, 64  # tokens and images in a timed step
WARM_UP, STEPS = 1, 2
BATCHES = {"cpu": (1, 8, 32, 64), "cuda": tuple(2**power for power in range(0, 14)), "mps": (1, 8, 32, 128)}
SECONDS = 0.5  # for a batch size


def seconds_per_image(spec: ModelSpec, data: Data, device: torch.device) -> float:
    """Seconds per image of the training loop, measured over a few steps on this data."""
    batch = max(2, min(MOST, TIMED // spec.tokens))
    config = PretrainConfig(batch=batch, steps=10**9, compile="off", augment=recipe("small").config.augment)
    env = Environment(data.train, None, Ranks(), device, choose_precision("auto", device), SilentReporter(), Stop())
    weights = make_fresh_weights(spec.replace(classes=len(data.file.class_names)), config, data)
    fit = Fit(config, make_labeled_task(config, weights, env), env, None)
    fit.train_until(WARM_UP)
    synchronize(device)
    started = time.perf_counter()
    fit.train_until(WARM_UP + STEPS)
    synchronize(device)
    return (time.perf_counter() - started) / (STEPS * batch)


@torch.inference_mode()
def measure_image_rates(spec: ModelSpec, device: torch.device) -> dict[int, float]:
    """{batch size: images a second}, up to the largest batch that fits."""
    model, rates = create_model(spec).to(device).eval(), {}
    for batch in BATCHES[device.type]:
        try:
            images = torch.randn(batch, spec.channels, spec.height, spec.width, device=device)
            rates[batch] = image_rate(model, images, device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
    if not rates:
        raise RunError(f"{spec.name}: not even one image of {spec.height}x{spec.width} fits into memory")
    return rates


def image_rate(model: torch.nn.Module, images: torch.Tensor, device: torch.device) -> float:
    done, started = 0, 0.0
    with autocast(choose_precision("auto", device), device):
        while not started or time.perf_counter() - started < SECONDS:
            model(images)
            synchronize(device)
            if not started:
                started = time.perf_counter()  # the first one warms up
            else:
                done += len(images)
    return done / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
