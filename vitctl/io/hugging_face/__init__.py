"""Hugging Face's Vision Transformers to timm's names and back: ViTForImageClassification, ViTModel, and the encoders
of ViTForMaskedImageModeling and ViTMAEForPreTraining. DINOv2 and the image towers of CLIP and SigLIP are read.

    CLASSIC   the names in the files of every release of transformers, which every release reads
    RENAMED   the names of its modules since 5.10: files of a bare state_dict(), or of save_original_format=False

Shapes decide most of the spec, and config.json must agree with them. Only config.json has heads, GELU, epsilon and the
grid; without it, they are assumed, and the user is warned.
"""

from vitctl.io.hugging_face.names import looks_like
from vitctl.io.hugging_face.reader import read_hf
from vitctl.io.hugging_face.towers import is_tower, read_tower
from vitctl.io.hugging_face.writer import save_hf_folder, to_hf

__all__ = ["is_tower", "looks_like", "read_hf", "read_tower", "save_hf_folder", "to_hf"]
