"""Block averaging of a correlated trajectory: how long its independent blocks are.

Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989): the error of a mean of block averages grows with the length of
the blocks until these are independent. The length is chosen as by Lee, Conduit, Nemec, López Ríos and Drummond, Phys.
Rev. E 83, 066706 (2011): the shortest, of powers of two, with length^3 > 2 n (error of blocks / error of frames)^4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FEWEST = 10  # blocks, without which an error is not worth its name


class Blocks(NamedTuple):
    """length : of a block in frames;  inefficiency : frames that are worth one independent one, at least 1
    long_enough : whether the errors had come to rest with FEWEST blocks left
    """

    length: int
    inefficiency: float
    long_enough: bool

    def index(self, n: int) -> np.ndarray:
        """(n,) int from 0: the block of each frame; what is left over belongs to the last one."""
        return np.minimum(np.arange(n) // self.length, max(n // self.length - 1, 0))


def blocks_of(series: np.ndarray) -> Blocks:
    """Of k series (n, k) in order of time; the slowest of those that vary decides."""
    series = np.asarray(series, dtype=np.float64)
    n = len(series)
    found = [_column(values, n) for values in series.T if np.ptp(values) > 0]
    if not found:
        return Blocks(1, 1.0, True)
    return Blocks(max(b.length for b in found), max(b.inefficiency for b in found), all(b.long_enough for b in found))


def _column(values: np.ndarray, n: int) -> Blocks:
    single = values.var(ddof=1) / n
    length, ratio = 1, 1.0
    while n // length >= FEWEST:
        count = n // length
        means = values[: count * length].reshape(count, length).mean(1)
        ratio = max(float(means.var(ddof=1) / count / single), 1.0) if length > 1 else 1.0
        if length**3 > 2 * n * ratio**2:
            return Blocks(length, ratio, True)
        length *= 2
    return Blocks(max(length // 2, 1), ratio, False)
