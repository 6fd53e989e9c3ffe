"""Hugging Face's Vision Transformers to timm's names and back: ViTForImageClassification, ViTModel, and the encoders
of ViTForMaskedImageModeling and ViTMAEForPreTraining.

    CLASSIC   how every release of transformers names the tensors in its files, and all of them read them
    RENAMED   how its modules are named since 5.10: files of a bare state_dict(), or of save_original_format=False

Shapes say most of what a model is, and config.json must agree with them. Heads, GELU, epsilon and the grid stand in
config.json alone; where there is none, they are assumed and told.
"""

from vitctl.io.hugging_face.names import looks_like
from vitctl.io.hugging_face.reader import read_hf
from vitctl.io.hugging_face.writer import save_hf_folder, to_hf

__all__ = ["looks_like", "read_hf", "save_hf_folder", "to_hf"]
