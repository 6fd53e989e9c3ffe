"""`vitctl bench models`: the first layer as a linear layer on patches, compared with timm's convolution."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import nn

from vitctl.config.bench import BenchConfig
from vitctl.config.model import ModelSpec, model_spec
from vitctl.models.layers import PatchEmbedding
from vitctl.patches import patchify_images
from vitctl.reporting import Reporter
from vitctl.workflows.bench.measure import CaseTable, Measurement, time_seconds

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
OURS, PEER = "linear on patches", "convolution"
REPEATS = 3  # of the layer for a figure, after one that is not timed


def bench_models(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    spec = model_spec(config.model)
    cases: dict[str, Measurement] = {}
    remarks = []
    for word, dtype in DTYPES.items():
        layers = first_layers(spec, dtype)
        inputs = make_inputs(spec, config.images, dtype, config.seed)
        remarks.append(f"{word}: outputs differ by up to {max_difference(layers, inputs):.1e} of the largest value")
        for label, backward in (("forward", False), ("forward and backward", True)):
            for name in (OURS, PEER):
                cases[f"{name}, {word}, {label}"] = time_layer(layers[name], inputs[name], backward)
    pairs = [(name, name.replace(OURS, PEER)) for name in cases if name.startswith(OURS)]
    yield CaseTable(cases, pairs, remarks=lambda _: remarks)


def first_layers(spec: ModelSpec, dtype: torch.dtype) -> dict[str, nn.Module]:
    options: dict[str, Any] = {"img_size": (spec.height, spec.width), "patch_size": spec.patch, "embed_dim": spec.dim}
    ours, peer = PatchEmbedding(**options).to(dtype), PatchEmbed(**options).to(dtype)
    peer.load_state_dict(ours.state_dict())
    return {OURS: ours, PEER: peer}


def make_inputs(spec: ModelSpec, count: int, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """The same pixels as patches for ours, and as images for the peer."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(count, spec.channels, spec.height, spec.width, generator=random).to(dtype)
    return {OURS: patchify_images(images.permute(0, 2, 3, 1), spec.patch), PEER: images}


def max_difference(layers: dict[str, nn.Module], inputs: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        ours, peer = (layers[name](inputs[name]).float() for name in (OURS, PEER))
    return float((ours - peer).abs().max() / peer.abs().max())


def time_layer(layer: nn.Module, pixels: torch.Tensor, backward: bool) -> Measurement:
    def run(times: int) -> None:
        for _ in range(times):
            with torch.set_grad_enabled(backward):
                tokens = layer(pixels)
                if backward:
                    layer.zero_grad()
                    tokens.backward(torch.ones_like(tokens))

    def measure() -> float:
        run(1)
        return len(pixels) * REPEATS / time_seconds(lambda: run(REPEATS))

    return measure
