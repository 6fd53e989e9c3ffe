"""`vitctl bench models`: the first layer as a product of patches, against the convolution that timm has there."""

import time
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import nn

from vitctl.config.bench import BenchConfig
from vitctl.config.model import ModelSpec, model_spec
from vitctl.models.patch_embedding import PatchEmbedding
from vitctl.patches import patchify_images
from vitctl.reporting import Reporter
from vitctl.workflows.bench.measure import BenchPart, Figure, Measurement, make_figure, make_ratio, run_in_turn

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
OURS, PEER = "linear on patches", "convolution"
REPEATS = 3  # of the layer for a figure, after one that does not count


def bench_models(config: BenchConfig, reporter: Reporter) -> BenchPart:
    spec = model_spec(config.model)
    measurements: dict[str, tuple[str, Measurement]] = {}
    remarks = []
    for word, dtype in DTYPES.items():
        layers = first_layers(spec, dtype)
        inputs = make_inputs(spec, config.images, dtype, config.seed)
        remarks.append(f"{word}: the two differ by {max_difference(layers, inputs):.1e} of the largest number")
        for way, backward in (("forward", False), ("forward and backward", True)):
            for name in (OURS, PEER):
                run = time_layer(layers[name], inputs[name], backward)
                measurements[f"{name}, {word}, {way}"] = ("img/s", run)
    values = run_in_turn(measurements, config.times, reporter)
    figures: list[Figure] = [make_figure(name, unit, values[name]) for name, (unit, _) in measurements.items()]
    pairs = [(name, name.replace(OURS, PEER)) for name in measurements if name.startswith(OURS)]
    return BenchPart(figures, [make_ratio(values, *pair) for pair in pairs], [], remarks)


def first_layers(spec: ModelSpec, dtype: torch.dtype) -> dict[str, nn.Module]:
    options: dict[str, Any] = {"img_size": (spec.height, spec.width), "patch_size": spec.patch, "embed_dim": spec.dim}
    ours, peer = PatchEmbedding(**options).to(dtype), PatchEmbed(**options).to(dtype)
    peer.load_state_dict(ours.state_dict())
    return {OURS: ours, PEER: peer}


def make_inputs(spec: ModelSpec, count: int, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """The same pixels in the form that each of the two takes."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(count, spec.channels, spec.height, spec.width, generator=random).to(dtype)
    return {OURS: patchify_images(images.permute(0, 2, 3, 1), spec.patch), PEER: images}


def max_difference(layers: dict[str, nn.Module], inputs: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        ours, peer = (layers[name](inputs[name]).float() for name in (OURS, PEER))
    return float((ours - peer).abs().max() / peer.abs().max())


def time_layer(layer: nn.Module, pixels: torch.Tensor, backward: bool) -> Callable[[], float]:
    def once() -> None:
        with torch.set_grad_enabled(backward):
            tokens = layer(pixels)
            if backward:
                layer.zero_grad()
                tokens.backward(torch.ones_like(tokens))

    def measure() -> float:
        once()
        started = time.perf_counter()
        for _ in range(REPEATS):
            once()
        return len(pixels) * REPEATS / (time.perf_counter() - started)

    return measure
