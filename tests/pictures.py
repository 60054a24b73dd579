"""What a test may ask of a picture."""

from __future__ import annotations

import matplotlib.image
import numpy as np


def assert_picture(path, smallest: int = 300) -> None:
    """The file decodes to an image of some size that holds many colours, more than a blank page or bare axes have."""
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] >= smallest and pixels.shape[1] >= smallest
    red, green, blue = np.moveaxis((pixels[..., :3] * 255).astype(np.int64), -1, 0)
    colours = np.unique((red * 256 + green) * 256 + blue)
    assert len(colours) > 50
    assert 0.02 < (pixels[..., :3].min(-1) < 0.97).mean() < 0.95
