"""The picture of a training."""

from __future__ import annotations

import matplotlib.image
import numpy as np

from molsampler.analysis.pictures.training import draw_training
from tests.pictures import assert_picture


def test_the_training_picture_skips_what_is_missing(tmp_path) -> None:
    draw_training({}, tmp_path / "none.png")
    draw_training({"update": np.arange(5.0), "loss": np.full(5, np.nan)}, tmp_path / "nan.png")
    small = matplotlib.image.imread(tmp_path / "none.png")
    assert np.array_equal(small, matplotlib.image.imread(tmp_path / "nan.png"))
    draw_training(
        {"update": np.arange(5.0), "loss": -np.arange(5.0), "evaluations_md": np.arange(5.0)}, tmp_path / "a.png"
    )
    assert_picture(tmp_path / "a.png", 200)
