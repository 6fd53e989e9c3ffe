"""The image towers of CLIP and SigLIP in transformers, to timm's names. Their text towers are left out."""

import re
from typing import Any

import torch

from vitctl.config.model import ModelSpec, Size, model_name
from vitctl.errors import ConfigError, WeightsError
from vitctl.io.hugging_face import config as hf
from vitctl.io.weights import About, Tensors, Weights

ROOTS = ("vision_model.", "")  # of both towers; of the image tower alone, since transformers 5
FIRST = "embeddings.patch_embedding.weight"
NAMES = (  # theirs, ours
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.", r"blocks.\1.mlp.\2."),
    (r"pre_layrnorm\.", "norm_pre."),  # as it is spelled there
    (r"post_layernorm\.", "norm."),
    (r"head\.probe$", "attn_pool.latent"),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
)


def is_tower(names: Any) -> bool:
    return any(f"{root}{FIRST}" in names for root in ROOTS)


def read_tower(tensors: Tensors, config: hf.Config | None, preprocessor: hf.Config | None, source: str) -> Weights:
    """Weights of the image tower, whose config.json may be that of both towers."""
    try:
        if config is None:
            raise WeightsError("the number of heads is not in the tensors; put its config.json next to it")
        root = next(each for each in ROOTS if f"{each}{FIRST}" in tensors)
        own = rename_tower({name.removeprefix(root): value for name, value in tensors.items() if name.startswith(root)})
        spec = tower_spec(own, config.get("vision_config") or config)
        guesses = list[str]()
        mean, std = hf.read_normalization(preprocessor, spec.channels, guesses)
    except (ConfigError, WeightsError, KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{source}: not an image tower of CLIP or SigLIP ({error})") from error
    kind = "SigLIP" if "attn_pool.latent" in own else "CLIP"
    about = About(f"Hugging Face {kind}", source, mean, std).with_eval_crop(hf.read_eval_crop(preprocessor))
    others = sum(not name.startswith(root) for name in tensors)
    note = f"{kind}'s image tower; {others} tensors of its text tower and projections are left out" if others else ""
    return Weights(spec, own, about, normalization_guess=", ".join(guesses)).with_notes(note)


def rename_tower(tensors: Tensors) -> Tensors:
    own: Tensors = {}
    for name, value in tensors.items():
        if name == "embeddings.class_embedding":
            own["cls_token"] = value.reshape(1, 1, -1)
        elif name == "embeddings.position_embedding.weight":
            own["pos_embed"] = value[None]
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            own[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat(parts)
        elif match := re.fullmatch(r"head\.attention\.in_proj_(weight|bias)", name):
            query, key, val = value.chunk(3)
            own |= {f"attn_pool.q.{match[1]}": query, f"attn_pool.kv.{match[1]}": torch.cat([key, val])}
        elif not re.search(r"self_attn\.[kv]_proj\.|position_ids$", name):
            renamed = next((re.sub(pattern, new, name) for pattern, new in NAMES if re.match(pattern, name)), None)
            if renamed is None:
                raise WeightsError(f"{name} is unknown")
            own[renamed] = value
    return own


def tower_spec(tensors: Tensors, config: hf.Config) -> ModelSpec:
    dim, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    mlp = len(tensors["blocks.0.mlp.fc1.bias"])
    heads = hf.read_int("num_attention_heads", config.get("num_attention_heads"), hf.HEADS)
    height, width = hf.image_size(config.get("image_size"))
    sizes = {"hidden_size": dim, "intermediate_size": mlp, "num_hidden_layers": depth, "patch_size": patch}
    wrong = [name for name, size in sizes.items() if config.get(name) not in (None, size)]
    if wrong:
        raise WeightsError(f"config.json says {wrong[0]} {config[wrong[0]]}, the tensors {sizes[wrong[0]]}; {hf.SAME}")
    is_siglip = "attn_pool.latent" in tensors
    if is_siglip:
        more: dict[str, Any] = {"head": "map", "class_token": False, "class_position": False}
    else:
        more = {"pre_norm": True}
    gelu, eps = ("gelu_pytorch_tanh", 1e-6) if is_siglip else ("quick_gelu", 1e-5)  # if config.json has none
    return ModelSpec(
        model_name("vit", Size(dim, depth, heads, mlp), patch), height=height, width=width, channels=channels,
        classes=0, patch=patch, dim=dim, depth=depth, heads=heads, mlp=mlp,
        gelu=hf.gelu_of(config.get("hidden_act", gelu)), norm_eps=hf.read_float(config, "layer_norm_eps", eps), **more,
    )  # fmt: skip
