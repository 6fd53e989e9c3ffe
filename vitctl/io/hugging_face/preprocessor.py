"""Reads and writes normalization and fit in preprocessor_config.json."""

import math
from collections.abc import Sequence

from vitctl.errors import UsageError, WeightsError
from vitctl.io.hugging_face.checks import Config, quote_value, read_float, read_real
from vitctl.io.weights import Weights
from vitctl.reporting import format_count


def read_normalization(
    preprocessor: Config | None, channels: int, guesses: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels from 0 to 1. A file may state them for pixels in another range."""
    if preprocessor is None:
        guesses.append("transformers' default: no preprocessor_config.json")
        return (0.5,) * channels, (0.5,) * channels
    factor = read_float(preprocessor, "rescale_factor", 1 / 255)
    white = 255.0 if preprocessor.get("do_rescale") is False else 255 * factor  # a white pixel before mean and std
    if not white > 0:
        raise WeightsError(f"preprocessor_config.json says rescale_factor {factor}; it must be above 0")
    if preprocessor.get("do_normalize") is False:
        mean, std = (0.0,) * channels, (1.0,) * channels
    else:
        mean, std = (read_statistics(preprocessor, name, channels, guesses) for name in ("image_mean", "image_std"))
    if not min(std) > 0:
        raise WeightsError(f"preprocessor_config.json says image_std {list(std)}; each must be above 0")
    if math.isclose(white, 1.0):
        return mean, std
    return tuple(value / white for value in mean), tuple(value / white for value in std)


CROPPING = ("Bit", "CLIP", "Perceiver")  # processors that crop by default


def read_fit(preprocessor: Config | None) -> str:
    """How images of another shape are resized: "crop" or "squash"."""
    if preprocessor is None:
        return "crop"  # the default of vitctl patchify
    kind, size = str(preprocessor.get("image_processor_type")), preprocessor.get("size")
    crops = preprocessor.get("do_center_crop", kind.startswith(CROPPING))
    return "crop" if crops or (isinstance(size, dict) and "shortest_edge" in size) else "squash"


def read_statistics(preprocessor: Config, name: str, channels: int, guesses: list[str]) -> tuple[float, ...]:
    value = preprocessor.get(name)
    if value is None:
        guesses.append(f"transformers' default: no {name} in preprocessor_config.json")
        return (0.5,) * channels
    numbers = tuple(read_real(name, each) for each in (value if isinstance(value, list | tuple) else [value]))
    fitting = per_channel(numbers, channels)
    if fitting is None:
        raise WeightsError(
            f"preprocessor_config.json says {name} {quote_value(value)}, but the images have "
            f"{format_count(channels, 'channel')}; use the file that was saved with these tensors"
        )
    return fitting


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...] | None:
    """One value per channel, or None. Values that are all equal fit any number of channels."""
    if len(values) == channels:
        return tuple(values)
    return (values[0],) * channels if len(set(values)) == 1 else None


def make_preprocessor(weights: Weights) -> Config:
    spec, about = weights.spec, weights.about
    mean, std = per_channel(about.mean, spec.channels), per_channel(about.std, spec.channels)
    if mean is None or std is None:
        raise UsageError(
            f"{spec.name}: mean {list(about.mean)} and std {list(about.std)} do not fit images of "
            f"{format_count(spec.channels, 'channel')}; Hugging Face needs one for each channel"
        )
    size = {"height": spec.height, "width": spec.width}
    crops = about.fit == "crop" and spec.height == spec.width
    # Like vitctl, Perceiver's processor crops the largest square and then resizes. Others resize first, which shifts
    # pixels by fractions. No processor crops to another shape, or pads with white.
    processor: Config = {
        "image_processor_type": "PerceiverImageProcessor" if crops else "ViTImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": 3,  # bicubic, like vitctl patchify
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    processor |= {"do_center_crop": True, "crop_size": size} if crops else {}
    return processor | ({"do_convert_rgb": True} if spec.channels == 3 else {})
