"""R-hat and statistical inefficiency of processes for which they are known."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from molsampler.analysis.statistics.convergence import split_rhat, statistical_inefficiency


def autoregressive(rng: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    """x' = memory x + noise, stationary: g = (1 + memory) / (1 - memory)."""
    x = np.empty(shape)
    x[:, 0] = rng.normal(size=shape[0])
    for t in range(1, shape[1]):
        x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * rng.normal(size=shape[0])
    return x


def test_rhat_is_one_for_independent_draws_and_by_hand_for_shifted_ones() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4000))
    # the means of halves of 2000 scatter with variance 1 / 2000: R-hat - 1 is of that order
    assert split_rhat(x) == pytest.approx(1.0, abs=2e-3)
    assert split_rhat(x + np.arange(8)[:, None]) == pytest.approx(
        np.sqrt(1 + np.repeat(np.arange(8), 2).var(ddof=1)), rel=0.02
    )


def test_rhat_sees_a_drift_that_all_ladders_share() -> None:
    x = np.random.default_rng(1).normal(size=(6, 3000)) + np.linspace(-1.5, 1.5, 3000)
    assert split_rhat(x) > 1.2


def test_what_does_not_vary_has_neither() -> None:
    assert np.isnan(split_rhat(np.zeros((4, 100)))) and np.isnan(split_rhat(np.zeros((4, 3))))
    assert np.isnan(statistical_inefficiency(np.ones((4, 100))))


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_statistical_inefficiency_of_an_autoregressive_process(memory) -> None:
    rng = np.random.default_rng(2)
    exact = (1 + memory) / (1 - memory)
    found = [statistical_inefficiency(autoregressive(rng, (16, 2000), memory)) for _ in range(6)]
    # the sum over lags is cut where the correlation first comes out negative, which costs some per cent
    assert np.mean(found) == pytest.approx(exact, rel=0.1)


def test_pymbar_comes_in_quietly_and_late() -> None:
    code = (
        "import sys, numpy as np; "
        "from molsampler.analysis.statistics.convergence import statistical_inefficiency as g; "
        "assert 'pymbar' not in sys.modules; "
        "g(np.random.default_rng(0).normal(size=(2, 50))); assert 'pymbar' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert logging.root.manager.disable == logging.NOTSET
