"""The smallest model in which nothing is the same as anything else by chance."""

from typing import Any

TINY: dict[str, Any] = {
    "height": 8, "width": 12, "patch": 4, "dim": 32, "depth": 3, "heads": 2, "mlp": 48, "classes": 5}  # fmt: skip
NO_TOKEN: dict[str, Any] = {"head": "gap", "class_token": False, "class_position": False}
