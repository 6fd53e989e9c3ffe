"""Writes a folder that transformers loads with `from_pretrained`."""

from dataclasses import replace
from pathlib import Path

from vitctl.errors import WeightsError
from vitctl.io.capabilities import ANY, Capabilities, allow, allow_any, check_supported
from vitctl.io.hugging_face.config import Config, check_tensor, make_config, make_preprocessor
from vitctl.io.hugging_face.names import CLASSIC, hf_tensor_rows
from vitctl.io.timm_folder import save_model_folder
from vitctl.io.weights import Tensors, Weights, describe_differences

CAPABILITIES = Capabilities(
    "Hugging Face's ViT",
    "write .safetensors instead, or train with --set head=cls",
    {
        **dict.fromkeys(("height", "width", "channels", "classes", "patch", "dim", "depth", "heads", "mlp"), allow_any),
        **dict.fromkeys(("qkv_bias", "gelu", "norm_eps", "numerics"), allow_any),
        "hidden": lambda spec: (0,) if spec.classes else ANY,
        "positions": allow("1d", "sincos", "sincos-mae"),  # as one table
    },
    about=("mean", "std"),
)


def to_hf(weights: Weights) -> tuple[Tensors, Config, Config]:
    """The tensors of the encoder and its head, config.json and preprocessor_config.json."""
    spec = weights.spec
    check_supported(weights, CAPABILITIES)
    table = list(hf_tensor_rows(spec, replace(CLASSIC, prefix="vit." if spec.classes else "")))
    names, own = {row.ours for row in table}, set(weights.tensors)
    if difference := describe_differences(names - own, own - names):
        raise WeightsError(f"{spec.name}: {difference}; such weights cannot be written for Hugging Face")
    tensors: Tensors = {}
    for row in table:
        tensor, (first, *others) = weights.tensors[row.ours], row.shape
        check_tensor(row.ours, tensor, (first * len(row.theirs), *others))
        for name, part in zip(row.theirs, tensor.chunk(len(row.theirs)), strict=True):
            tensors[name] = part.detach().cpu().contiguous()
    return tensors, make_config(weights), make_preprocessor(weights)


def save_hf_folder(weights: Weights, folder: Path) -> None:
    tensors, config, preprocessor = to_hf(weights)
    save_model_folder(folder, tensors, {"config.json": config, "preprocessor_config.json": preprocessor})
