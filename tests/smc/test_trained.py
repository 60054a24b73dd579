"""Weighted samples of a known target from a sampler that was never trained, so that only the weights can be right."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.diffusion.twist import Twist, TwistConfig
from molsampler.smc import trained
from molsampler.smc.sampler import SMCConfig, SMCPass
from molsampler.smc.trained import SMC_PASSES, TrainedSampler, check_samples
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import TwoWells

TARGET = TwoWells(log_z=0.4)
WALLED = TwoWells(log_z=0.4, wall=-0.5)
CONFIG = SMCConfig(chunk=1, kappa=0.9, gamma=0.5)


def bounded(log_r: torch.Tensor) -> torch.Tensor:
    """A mild bound: a twist that all but forbids what the last step still reaches gives weights without a variance."""
    return log_r.clamp_min(-6.0)


def sampler(target: TwoWells = TARGET, log_z: float = 0.2, **twist) -> TrainedSampler:
    """An untrained policy; a twist that is finite and wrong, so that weights have to make up for it."""
    process = NoisingProcess(target.space, ScheduleConfig(4, circle_min=0.8))
    policy = DiffusionPolicy(process, PolicyConfig(8, 2), seeded(0))
    wrong = Twist(process, TwistConfig(8, 2, **twist), seeded(1))
    with torch.no_grad():
        wrong.network.mlp.last.weight.copy_(0.5 * torch.randn(1, 8, generator=seeded(2)))
        wrong.network.mlp.last_bias.copy_(-2.0 * torch.arange(4.0)[:, None])
    return TrainedSampler(policy, wrong, torch.tensor(log_z), target.log_prob, bounded, CONFIG)


def moments(x: torch.Tensor) -> torch.Tensor:
    """1, the line coordinate and the angle's cosine: their unnormalised means are log Z and two averages."""
    return torch.stack([torch.ones(len(x)), x[:, 0], x[:, 1].cos()], 1).double()


def expected(target: TwoWells) -> torch.Tensor:
    """Means under R itself: closed form on the line without a wall, else 10^6 exact samples."""
    exact = moments(target.sample(seeded(9), 1_000_000)).mean(0)
    if target.wall == -math.inf:
        exact[1] = sum(share * centre[0] for share, centre in zip(target.share, target.centre, strict=True))
    return math.exp(target.log_z) * exact


BOTH = pytest.mark.parametrize("target", [TARGET, WALLED], ids=["everywhere", "half space"])


@BOTH
def test_policy_weights_give_mean_and_log_z(target):
    """20,000 independent weighted samples: three unnormalised means within 4.5 standard errors of theirs."""
    chunks: list[int] = []
    drawn = sampler(target).draw(20_000, seeded(1), chunks.append)
    assert sum(chunks) == len(drawn.x) == len(drawn.log_r) == len(drawn.log_ratio) == 20_000
    assert len(chunks) > 1 and max(chunks) <= trained.CHUNK
    assert drawn.group is None and drawn.distinct_ancestors is None and drawn.log_ratio.dtype == torch.float64
    torch.testing.assert_close(drawn.log_r, target.log_prob(drawn.x))
    weights = drawn.log_w.exp()
    assert_mean(weights[:, None] * moments(drawn.x), expected(target))
    assert float((weights == 0).double().mean()) == pytest.approx(float((drawn.x[:, 0] < target.wall).double().mean()))


@BOTH
@pytest.mark.parametrize("partial_energy", [False, True], ids=["plain twist", "partial energy"])
def test_smc_weights_give_mean_and_log_z_with_errors_from_groups(target, partial_energy):
    """Every pass of the 64 is an independent unbiased estimate, so their scatter gives the standard errors (Student's t
    with 63 degrees of freedom: 3e-5 a mean beyond 4.5)."""
    asked = 64 * 150 - 3
    chunks: list[int] = []
    drawn = sampler(target, partial_energy=partial_energy).smc(asked, seeded(2), chunks.append)
    assert len(drawn.x) == 64 * 150 and chunks == [150] * 64
    assert torch.equal(drawn.group, torch.arange(SMC_PASSES).repeat_interleave(150))
    torch.testing.assert_close(drawn.log_r, target.log_prob(drawn.x))
    per_pass = (drawn.log_w.exp()[:, None] * moments(drawn.x)).view(SMC_PASSES, 150, 3).mean(1)
    assert_mean(per_pass, expected(target))
    ancestors = drawn.distinct_ancestors
    assert len(ancestors) == SMC_PASSES and bool(((ancestors >= 1) & (ancestors < 150)).all())  # some were lost
    assert bool(torch.isfinite(drawn.log_ratio).all())
    assert bool((drawn.log_w[drawn.x[:, 0] < target.wall] == -torch.inf).all())


def test_smc_walks_passes_with_its_own_twist():
    """The first pass is one walked by hand with the closed form of the twist: what it has learnt, on the reference
    marginal times Z, with the energy that it holds bounded."""
    chosen = sampler(WALLED, partial_energy=True)

    def by_hand(x: torch.Tensor, n: int) -> torch.Tensor:
        share = (n / 4) ** 4.0
        learnt = chosen.twist.network(x, n)[:, 0].detach()
        log_r = bounded(WALLED.log_prob(x))
        return learnt + (1.0 - share) * (WALLED.space.log_prior(x) + 0.2) + share * log_r

    x = WALLED.space.sample_prior(40, seeded(3))
    for n in (1, 3):
        torch.testing.assert_close(chosen.log_twist(x, n), by_hand(x, n))
        assert not chosen.log_twist(x, n).requires_grad
    drawn = chosen.smc(2 * SMC_PASSES, seeded(4))
    one, info = SMCPass(chosen.policy, by_hand, WALLED.log_prob, 2, CONFIG, seeded(4)).run()
    torch.testing.assert_close(drawn.x[:2], one.x)
    torch.testing.assert_close(drawn.log_w[:2], one.log_w, rtol=1e-4, atol=1e-4)
    assert int(drawn.distinct_ancestors[0]) == info.distinct_ancestors


def test_sampling_knows_no_emphasis():
    """What resampling prefers in training changes no sample."""
    plain = sampler()
    emphasised = replace(plain, smc_config=replace(CONFIG, emphasis=2.0))
    one, two = (it.smc(2 * SMC_PASSES, seeded(5)) for it in (plain, emphasised))
    assert torch.equal(one.x, two.x) and torch.equal(one.log_w, two.log_w)


def test_a_rescored_log_r_gives_the_weight_of_the_rescored_target():
    drawn = sampler().draw(500, seeded(5))
    weights = drawn.log_r.double() + 0.7 - drawn.log_ratio
    torch.testing.assert_close(weights, drawn.log_w + 0.7)
    states, log_ratio = rollout(sampler().policy, 500, seeded(5))
    assert torch.equal(drawn.x, states[-1])
    torch.testing.assert_close(drawn.log_w, TARGET.log_prob(states[-1]).double() - log_ratio.double())


def test_weights_of_noised_samples_are_those_of_their_paths_and_bound_log_z_from_above():
    """An untrained policy is the reversal of the reference, so log w = log R - log p_ref on every path; under R / Z
    its mean is the EUBO, above log Z by what the policy lacks."""
    chosen = sampler()
    x = TARGET.sample(seeded(6), 2000)
    log_w = chosen.path_log_weights(x, TARGET.log_prob(x), seeded(7))
    assert log_w.shape == (2000,) and not log_w.requires_grad
    torch.testing.assert_close(log_w, TARGET.log_prob(x) - TARGET.space.log_prior(x), rtol=0.0, atol=1e-3)
    assert float(log_w.mean()) > TARGET.log_z + 0.1
    # and of a policy that is none, those of the noised paths
    with torch.no_grad():
        chosen.policy.network.mlp.last_bias.add_(0.3)
    path = chosen.process.sample_path(x, seeded(7))
    exact = score_states(chosen.policy, path, TARGET.log_prob(x)).log_weights().detach()
    log_w = chosen.path_log_weights(x, TARGET.log_prob(x), seeded(7))
    torch.testing.assert_close(log_w, exact)
    assert float((exact - TARGET.log_prob(x) + TARGET.space.log_prior(x)).abs().mean()) > 0.1


def test_whatever_is_done_with_it_changes_nothing():
    chosen = sampler(partial_energy=True)
    before = copy.deepcopy([chosen.policy.state_dict(), chosen.twist.state_dict(), chosen.log_z])
    chosen.draw(100, seeded(0))
    chosen.smc(2 * SMC_PASSES, seeded(0))
    chosen.path_log_weights(TARGET.sample(seeded(1), 10), torch.zeros(10), seeded(2))
    chosen.log_twist(TARGET.sample(seeded(1), 10), 2)
    after = [chosen.policy.state_dict(), chosen.twist.state_dict(), chosen.log_z]
    for old, new in zip(before[:2], after[:2], strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert torch.equal(before[2], after[2])
    assert all(p.grad is None for p in [*chosen.policy.parameters(), *chosen.twist.parameters()])
    # and a generator's seed says it all
    assert torch.equal(chosen.draw(100, seeded(3)).log_w, chosen.draw(100, seeded(3)).log_w)


def test_smc_without_a_trained_twist_is_refused_in_one_sentence():
    untrained = replace(sampler(), twist_trained=False)
    with pytest.raises(InputError) as error:
        untrained.smc(2 * SMC_PASSES, seeded(0))
    assert str(error.value) == (
        "the twist of this run was not trained (its objective is reverse_kl), so that sequential Monte Carlo has no "
        "intermediate targets: sample with sampler = policy"
    )
    assert len(untrained.draw(3, seeded(0)).x) == 3


@pytest.mark.parametrize("name", ["policy", "smc"])
@pytest.mark.parametrize("n", [0, -4])
def test_no_samples_are_refused(n, name):
    with pytest.raises(InputError, match=f"^{n} samples were asked for: ask for at least 1$"):
        check_samples(n, name)


def test_too_few_samples_for_smc_are_refused():
    with pytest.raises(InputError, match=f"{2 * SMC_PASSES - 1} samples are too few for SMC"):
        check_samples(2 * SMC_PASSES - 1, "smc")
    check_samples(2 * SMC_PASSES, "smc")
    check_samples(1, "policy")
    assert len(sampler().smc(2 * SMC_PASSES, seeded(0)).x) == 2 * SMC_PASSES
