"""Block lengths against processes whose statistical inefficiency is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from molsampler.analysis.statistics.blocks import FEWEST, blocks_of


def autoregressive(memory: float, n: int, seed: int = 0) -> np.ndarray:
    """(n, 1) x_t = memory x_(t-1) + noise, of inefficiency (1 + memory) / (1 - memory)."""
    return lfilter([1.0], [1.0, -memory], np.random.default_rng(seed).standard_normal(n))[:, None]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_the_inefficiency_of_an_autoregressive_process(memory):
    """Of 2^16 frames in 400 or more blocks: a variance of as many is known to 7 %, so that 35 % are five errors."""
    found = blocks_of(autoregressive(memory, 2**16))
    assert found.long_enough and found.length >= found.inefficiency
    assert found.inefficiency == pytest.approx((1 + memory) / (1 - memory), rel=0.35)


def test_errors_of_blocks_hold_the_scatter_of_means():
    """The standard deviation of 200 means (known to 5 %) against the error that each states, within 25 %."""
    runs = [autoregressive(0.9, 2**13, seed)[:, 0] for seed in range(200)]
    stated = []
    for values in runs:
        found = blocks_of(values[:, None])
        stated.append(np.sqrt(found.inefficiency * values.var(ddof=1) / len(values)))
    assert np.mean(stated) == pytest.approx(np.std([v.mean() for v in runs], ddof=1), rel=0.25)


def test_the_slowest_series_decides_and_what_is_too_short_says_so():
    fast, slow = autoregressive(0.0, 4096), autoregressive(0.95, 4096)
    assert blocks_of(np.hstack([fast, slow])) == blocks_of(slow)
    assert not blocks_of(autoregressive(0.9995, 2000)).long_enough
    assert blocks_of(np.zeros((100, 2))) == (1, 1.0, True)


def test_every_frame_has_a_block_and_no_block_is_shorter_than_the_others():
    found = blocks_of(autoregressive(0.9, 5000))
    sizes = np.bincount(found.index(5000))
    assert sizes.sum() == 5000 and len(sizes) >= FEWEST
    assert (sizes[:-1] == found.length).all() and found.length <= sizes[-1] < 2 * found.length
