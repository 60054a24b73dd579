from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.bisection import STEPS, last_where


@pytest.mark.parametrize("threshold", [0.1, math.sqrt(2.0), 2.9999])
def test_the_threshold_is_found_to_the_spacing_of_numbers(threshold):
    found = last_where(lambda x: x <= threshold, 0.0, 3.0)
    assert isinstance(found, float) and found <= threshold
    assert found == pytest.approx(threshold, abs=1e-15)


def test_it_always_holds_at_what_comes_back():
    """Never the other side of the threshold, however few the steps."""
    for steps in range(12):
        found = last_where(lambda x: x * x < 2.0, 1.0, 2.0, steps=steps)
        assert found * found < 2.0 and math.sqrt(2.0) - found <= 0.5**steps


def test_where_it_holds_nowhere_or_everywhere():
    assert last_where(lambda x: False, -2.0, 5.0) == -2.0
    assert last_where(lambda x: True, -2.0, 5.0) == pytest.approx(5.0, abs=1e-15)


def test_tensors_are_searched_element_by_element():
    low, high = torch.tensor([0.0, -3.0, 10.0, 0.0]).double(), torch.tensor([1.0, 3.0, 20.0, 1.0]).double()
    threshold = torch.tensor([0.3, -1.7, 12.5, -9.0]).double()
    calls: list[torch.Tensor] = []

    def holds(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x <= threshold

    found = last_where(holds, low, high)
    torch.testing.assert_close(found, torch.maximum(threshold, low), rtol=0.0, atol=1e-14)
    assert bool((found[:3] <= threshold[:3]).all()) and found.dtype == torch.float64
    assert len(calls) == STEPS  # one call a step for all elements
    # each is what it is by itself
    for k in range(4):
        alone = last_where(lambda x, k=k: x <= float(threshold[k]), float(low[k]), float(high[k]))
        assert float(found[k]) == alone
    assert torch.equal(low, torch.tensor([0.0, -3.0, 10.0, 0.0]).double())  # what was given is not written into


def test_a_monotone_function_is_inverted():
    y = torch.linspace(0.1, 50.0, 30, dtype=torch.float64)
    found = last_where(lambda x: x.exp() <= y, torch.full_like(y, -5.0), torch.full_like(y, 5.0))
    torch.testing.assert_close(found, y.log(), rtol=1e-12, atol=1e-12)
