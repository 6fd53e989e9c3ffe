import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitctl.config.model import model_spec
from vitctl.models.count import count
from vitctl.models.create import build_module


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit-s/32", {}),
        ("vit-s/32", {"positions": "2d", "added": "every"}),
        ("vit-s/32", {"positions": "relative", "added": "shared", "drop_path": 0.1}),
        ("axial-vit-b/32", {}),
        ("r50+vit-b/32", {}),
        ("bit-r50x1", {}),
        ("timm:resnet18", {}),
    ],
)
def test_equal_blocks_are_run_once_and_counted_as_often_as_they_occur(name: str, options: dict[str, object]) -> None:
    spec = model_spec(name, height=64, width=96, **options)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_module(spec).eval().requires_grad_(False)(torch.empty(1, 3, 64, 96))
    assert count(spec).flops == counter.get_total_flops()
