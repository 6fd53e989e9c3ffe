"""The names of Meta's own files of DINOv2 and DINOv3, to timm's."""

import re

import torch

from vitctl.io.weights import Tensors

PERIODS = "rope_embed.periods"  # of DINOv3, rounded to bfloat16; computed here as in timm and transformers
NAMES = (  # theirs, ours
    (r"^(register|storage)_tokens$", "reg_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),  # DINOv2's gates and values
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
UNUSED = re.compile(r"rope_embed\.periods|.*\.bias_mask|local_cls_norm\..*|.*\.mlp\.w2\..*")  # or joined below


def rename_dino(tensors: Tensors) -> Tensors:
    """Joins DINOv3's gates and values, and sets the bias that its keys do not have to zero."""
    own: Tensors = {}
    for name, value in tensors.items():
        if ".mlp.w1." in name:
            own[name.replace("w1", "fc1")] = torch.cat([value, tensors[name.replace("w1", "w2")]])
        elif f"{name}_mask" in tensors:
            query, key, bias = value.chunk(3)
            own[name] = torch.cat([query, torch.zeros_like(key), bias])
        elif not UNUSED.fullmatch(name):
            for pattern, new in NAMES:
                name = re.sub(pattern, new, name)
            own[name] = value
    return own


def count_heads(tensors: Tensors) -> int | None:
    """The heads of a DINOv3: each is as wide as its row and its column have sines and cosines."""
    return tensors["cls_token"].shape[-1] // (4 * tensors[PERIODS].numel()) if PERIODS in tensors else None
