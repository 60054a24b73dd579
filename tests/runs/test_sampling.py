"""Weighted samples of a known target from a policy that was never trained, so that only the weights can be right."""

from __future__ import annotations

import math

import pytest
import torch
from molsampler.runs.sampling import SMC_RUNS, sample_policy, sample_smc

from molsampler.basis.errors import InputError
from molsampler.diffusion.policy import Policy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, ScheduleConfig
from molsampler.smc.sampler import SMCConfig
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import TwoWells

TARGET = TwoWells(log_z=0.4)
WALLED = TwoWells(log_z=0.4, wall=-0.5)
CONFIG = SMCConfig(chunk=1, kappa=0.9, gamma=0.5)


def policy() -> Policy:
    process = NoisingProcess(TARGET.space, ScheduleConfig(4, circle_min=0.8))
    return Policy(process, PolicyConfig(8, 2), seeded(0))


def twist(x: torch.Tensor, n: int) -> torch.Tensor:
    """Finite and wrong: weights have to make up for it."""
    return 0.3 * torch.sin(2.0 * x[:, 0] + n) - 2.0 * n


def moments(x: torch.Tensor) -> torch.Tensor:
    """1, the line coordinate and the angle's cosine: their unnormalised means are log Z and two averages."""
    return torch.stack([torch.ones(len(x)), x[:, 0], x[:, 1].cos()], 1).double()


def expected(target: TwoWells) -> torch.Tensor:
    """Means under R itself: closed form on the line without a wall, else 10^6 exact samples."""
    exact = moments(target.sample(seeded(9), 1_000_000)).mean(0)
    if target.wall == -math.inf:
        exact[1] = sum(share * centre[0] for share, centre in zip(target.share, target.centre, strict=True))
    return math.exp(target.log_z) * exact


@pytest.mark.parametrize("target", [TARGET, WALLED], ids=["everywhere", "half space"])
def test_policy_weights_give_mean_and_log_z(target):
    """20,000 independent weighted samples: three unnormalised means within 4.5 standard errors of theirs."""
    chunks: list[int] = []
    drawn = sample_policy(policy(), target.log_prob, 20_000, seeded(1), chunks.append)
    assert sum(chunks) == len(drawn.x) == len(drawn.log_r) == len(drawn.log_ratio) == 20_000
    assert drawn.group is None and drawn.log_ratio.dtype == torch.float64
    torch.testing.assert_close(drawn.log_r, target.log_prob(drawn.x))
    weights = (drawn.log_r.double() - drawn.log_ratio).exp()
    assert_mean(weights[:, None] * moments(drawn.x), expected(target))
    assert float((weights == 0).double().mean()) == pytest.approx(float((drawn.x[:, 0] < target.wall).double().mean()))


@pytest.mark.parametrize("target", [TARGET, WALLED], ids=["everywhere", "half space"])
def test_smc_weights_give_mean_and_log_z_with_errors_from_groups(target):
    """Every run of the 64 is an independent unbiased estimate, so their scatter gives the standard errors (Student's t
    with 63 degrees of freedom: 3e-5 a mean beyond 4.5)."""
    asked = 64 * 150 - 3
    drawn, ancestors = sample_smc(policy(), twist, target.log_prob, asked, CONFIG, seeded(2))
    assert len(drawn.x) == 64 * 150 and drawn.group is not None
    assert torch.equal(drawn.group, torch.arange(SMC_RUNS).repeat_interleave(150))
    weights = (drawn.log_r.double() - drawn.log_ratio).exp()
    per_run = (weights[:, None] * moments(drawn.x)).view(SMC_RUNS, 150, 3).mean(1)
    assert_mean(per_run, expected(target))
    assert len(ancestors) == SMC_RUNS and all(1 <= k < 150 for k in ancestors)  # resampling did lose some
    assert bool(torch.isfinite(drawn.log_ratio).all())


@pytest.mark.parametrize("n", [0, -4])
def test_no_samples_are_refused(n):
    with pytest.raises(InputError, match=str(n)):
        sample_policy(policy(), TARGET.log_prob, n, seeded(0))


def test_too_few_samples_for_smc_are_refused():
    with pytest.raises(InputError, match=f"{2 * SMC_RUNS - 1} samples"):
        sample_smc(policy(), twist, TARGET.log_prob, 2 * SMC_RUNS - 1, CONFIG, seeded(0))
    drawn, _ = sample_smc(policy(), twist, TARGET.log_prob, 2 * SMC_RUNS, CONFIG, seeded(0))
    assert len(drawn.x) == 2 * SMC_RUNS
