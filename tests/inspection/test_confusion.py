from pathlib import Path

import numpy as np
from PIL import Image

from vitctl.inspection.confusion import draw_confusion


def test_names_that_the_font_lacks_are_drawn_without_a_warning(tmp_path: Path) -> None:
    draw_confusion(np.diag([3, 4]), ["猫", "dog"], tmp_path / "c.png", "猫")
    with Image.open(tmp_path / "c.png") as drawn:
        assert drawn.width > 100
