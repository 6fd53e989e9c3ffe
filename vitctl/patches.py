"""Images to patches and back, for NumPy arrays and torch tensors alike.

Letters, as in the paper: B batch, N patches, P patch size, C channels, D width.
"""

from typing import Any, TypeVar

from vitctl.errors import ConfigError

Array = TypeVar("Array")  # np.ndarray or torch.Tensor: both have shape, reshape and swapaxes


def patchify_images(images: Array, patch: int) -> Array:
    """[..., H, W, C] -> [..., N, P*P*C]: patches row by row; inside a patch row, column, channel (the paper's x_p)."""
    *lead, height, width, channels = images.shape  # type: ignore[attr-defined]
    check_grid(height, width, patch)
    grid = images.reshape(*lead, height // patch, patch, width // patch, patch, channels)  # type: ignore[attr-defined]
    rows = grid.swapaxes(-4, -3)  # [..., H/P, W/P, P, P, C]
    return rows.reshape(*lead, (height // patch) * (width // patch), patch * patch * channels)  # type: ignore[no-any-return]


def unpatchify_images(patches: Array, height: int, width: int, patch: int) -> Array:
    """[..., N, P*P*C] -> [..., H, W, C], the exact inverse of `patchify_images`."""
    *lead, count, values = patches.shape  # type: ignore[attr-defined]
    check_grid(height, width, patch)
    channels = values // (patch * patch)
    if count * values != height * width * channels:
        raise ConfigError(f"{count} patches of {patch}x{patch} do not make an image of {height}x{width}")
    grid = patches.reshape(*lead, height // patch, width // patch, patch, patch, channels)  # type: ignore[attr-defined]
    return grid.swapaxes(-4, -3).reshape(*lead, height, width, channels)  # type: ignore[no-any-return]


def check_grid(height: int, width: int, patch: int) -> None:
    if patch < 1:
        raise ConfigError(f"patches of {patch} do not divide an image of {height}x{width}; use a patch size above 0")
    if height % patch or width % patch or height < patch or width < patch:
        near = [f"{round_to(height, patch, up)}x{round_to(width, patch, up)}" for up in (False, True)]
        sizes = " and ".join(dict.fromkeys(near))
        raise ConfigError(f"patches of {patch} do not divide an image of {height}x{width}; the nearest are {sizes}")


def round_to(size: int, patch: int, up: bool) -> int:
    return max(patch, -(-size // patch) * patch if up else size // patch * patch)


def take_tokens(values: Any, places: Any) -> Any:
    """values [B, N, X] (torch) at the token indices places [B, M]: [B, M, X]."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
