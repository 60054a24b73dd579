"""Linear coordinates: what they are fitted to and what is refused; the contract is in tests/basis."""

from __future__ import annotations

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.targets.coordinates.affine import Affine
from tests.stochastic import seeded

MEAN = torch.tensor([1.0, -2.0, 3.0]).double()


def full(dim: int = 3) -> torch.Tensor:
    scale = torch.randn(dim, dim, generator=seeded(0), dtype=torch.float64).tril(-1)
    return scale + torch.diag(torch.linspace(0.5, 2.0, dim, dtype=torch.float64))


@pytest.mark.parametrize("scale", [torch.tensor([0.5, 2.0, 4.0]), full()], ids=["diagonal", "full"])
def test_the_map_is_linear_in_the_dtype_of_the_states(scale):
    coordinates = Affine(MEAN, scale)
    z = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    matrix = (torch.diag(scale) if scale.ndim == 1 else scale).double()
    x, log_det = coordinates.to_natural(z)
    torch.testing.assert_close(x, MEAN + (matrix @ z.T).T)
    torch.testing.assert_close(log_det, torch.full((5,), float(torch.linalg.slogdet(matrix).logabsdet)).double())
    single, log_det = coordinates.to_natural(z.float())
    assert single.dtype == log_det.dtype == coordinates.to_standard(x.float()).dtype == torch.float32
    torch.testing.assert_close(single.double(), x, rtol=1e-5, atol=1e-5)


def test_what_is_given_is_kept_as_a_copy():
    mean = MEAN.clone()
    coordinates = Affine(mean, torch.ones(3))
    mean.zero_()
    assert torch.equal(coordinates.mean, MEAN)


def degenerate() -> dict[str, tuple[torch.Tensor, str, str]]:
    x = torch.randn(10, 3, generator=seeded(7), dtype=torch.float64)
    constant, flat, broken = x.clone(), x.clone(), x.clone()
    constant[:, 1] = 1e6
    flat[:, 2] = flat[:, 0] + flat[:, 1]
    broken[4, 0] = torch.nan
    return {
        "constant coordinate": (constant, "diagonal", "coordinate 1 has the same value"),
        "in a plane": (flat, "full", "do not spread in all 3 directions"),
        "not finite": (broken, "full", "1 of 10 samples are not finite"),
        "too few": (x[:3], "full", r"shape \(3, 3\).*M of at least 4"),
        "one": (x[:1], "diagonal", "M of at least 2"),
        "other dimension": (x[:, :2], "diagonal", r"shape \(10, 2\)"),
        "unknown kind": (x, "block", "'block'; choose diagonal or full"),
    }


@pytest.mark.parametrize("case", list(degenerate()))
def test_degenerate_samples_are_refused(case):
    x, kind, message = degenerate()[case]
    with pytest.raises(InputError, match=message):
        Affine(MEAN, torch.ones(3), kind).fit(x)


def test_a_refused_fit_leaves_the_coordinates_as_they_were():
    coordinates = Affine(MEAN, torch.ones(3), "full")
    with pytest.raises(InputError):
        coordinates.fit(degenerate()["in a plane"][0])
    assert torch.equal(coordinates.mean, MEAN) and torch.equal(coordinates.scale, torch.ones(3).double())


def test_a_covariance_that_is_none_is_refused():
    for kind, covariance, message in (
        ("full", torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), "not positive definite"),
        ("diagonal", torch.diag(torch.tensor([1.0, 0.0, 1.0])), "smallest scale is 0"),
    ):
        with pytest.raises(InputError, match=message):
            Affine(MEAN, torch.ones(3), kind).standardise(MEAN, covariance)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(2), r"shapes \(3,\) and \(2,\)"),
        (torch.tensor([1.0, -0.5, 1.0]), "smallest scale is -0.5"),
        (torch.tensor([1.0, torch.nan, 1.0]), "smallest scale is nan"),
        (full().T, "above its diagonal"),
    ],
)
def test_bad_scales_are_refused(scale, message):
    with pytest.raises(InputError, match=message):
        Affine(MEAN, scale)
