"""vitctl: Vision Transformers, from a folder of images to a model that ships. Names are loaded when they are used."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC = {  # name -> where it lives
    "PatchFile": "vitctl.io.patch_file",
    "Loader": "vitctl.data.loader",
    "View": "vitctl.data.loader",
    "Augment": "vitctl.data.augmentation.augment",
    "Mixing": "vitctl.data.augmentation.mixing",
    "PatchifyConfig": "vitctl.config.patchify",
    "AugmentConfig": "vitctl.config.augment",
    "ModelSpec": "vitctl.config.model",
    "model_spec": "vitctl.config.model",
    "Rope": "vitctl.config.model",
    "InterpolateConfig": "vitctl.config.interpolate",
    "create_model": "vitctl.models.create",
    "load_model": "vitctl.workflows.inputs.weights",
    "load_weights": "vitctl.workflows.inputs.weights",
    "save_as": "vitctl.io.save",
    "weights_of": "vitctl.models.create",
    "interpolate_positions": "vitctl.workflows.interpolate",
    "Res": "vitctl.config.res",
    "PretrainConfig": "vitctl.config.train",
    "FinetuneConfig": "vitctl.config.train",
    "SelfsupConfig": "vitctl.config.train",
    "OptimConfig": "vitctl.config.train",
    "ScheduleConfig": "vitctl.config.train",
    "ShapeConfig": "vitctl.config.train",
    "MaskingConfig": "vitctl.config.masking",
    "RunOptions": "vitctl.config.train",
    "recipe": "vitctl.config.recipes",
    "pretrain": "vitctl.workflows.pretrain",
    "selfsup": "vitctl.workflows.selfsup",
    "finetune": "vitctl.workflows.finetune",
    "EvaluateConfig": "vitctl.config.evaluate",
    "evaluate": "vitctl.workflows.evaluate",
    "FeaturesConfig": "vitctl.config.features",
    "FeatureFile": "vitctl.io.feature_file",
    "features": "vitctl.workflows.features",
    "FewshotConfig": "vitctl.config.fewshot",
    "fewshot": "vitctl.workflows.fewshot",
    "list_recipes": "vitctl.workflows.recipes",
    "list_models": "vitctl.workflows.models",
    "ExportConfig": "vitctl.config.export",
    "export": "vitctl.workflows.export",
    "PredictConfig": "vitctl.config.predict",
    "predict": "vitctl.workflows.predict",
    "InspectConfig": "vitctl.config.inspect",
    "inspect": "vitctl.workflows.inspect",
    "watch_attention": "vitctl.inspection.attention",
    "Rollout": "vitctl.inspection.attention",
    "augmentation": "vitctl.config.augment",
    "patchify": "vitctl.workflows.patchify",
    "describe": "vitctl.workflows.info",
    "examine": "vitctl.workflows.doctor",
    "bench": "vitctl.workflows.bench",
    "DemoConfig": "vitctl.config.demo",
    "demo": "vitctl.workflows.demo",
    "StudyConfig": "vitctl.config.study",
    "study": "vitctl.workflows.study",
}
__all__ = [*PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'vitctl' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
