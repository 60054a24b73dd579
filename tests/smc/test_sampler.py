"""SMC passes on R x T against known normalisations, with policies and twists that are deliberately bad."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.log_weights import LogWeights
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.smc.sampler import SMCConfig, SMCPass
from tests.diffusion.exact import ExactReversal
from tests.stochastic import assert_mean, seeded, standard_errors
from tests.targets.analytic import Gaussian, TwoWells

TARGET = TwoWells(log_z=0.4)
HALF = TwoWells(log_z=0.4, wall=-0.5)  # R = 0 on a half space that holds half of the mass


def bad_policy(n_steps: int = 4) -> DiffusionPolicy:
    """A policy that drifts the wrong way by random amounts, with kernels that are too wide: finite variance."""
    process = NoisingProcess(TARGET.space, ScheduleConfig(n_steps, circle_min=0.8))
    policy = DiffusionPolicy(process, PolicyConfig(8, 2, log_var_range=1.0), seeded(0))
    with torch.no_grad():
        policy.network.mlp.last.weight.copy_(0.15 * torch.randn(4, 8, generator=seeded(1)))
        policy.network.mlp.last_bias[:, 2:] = 0.8
    return policy


def bad_twist(x: torch.Tensor, n: int) -> torch.Tensor:
    """Finite, and unlike anything that the target would ask for: it pulls to the wrong side, harder with every step."""
    return 0.3 * n * torch.sin(2.0 * x[:, 0] + n) + 0.7 * x[:, 1].cos() - 3.0 * n


def bad_emulator(x: torch.Tensor) -> torch.Tensor:
    """Finite, and far off; it does not know of the wall."""
    return TARGET.log_prob(x).clamp_min(-8.0) + 0.8 * torch.sin(3.0 * x[:, 0]) - 5.0


CASES = {
    "importance sampling": SMCConfig(chunk=1, kappa=0.0, gamma=0.05),
    "resampling": SMCConfig(chunk=1, kappa=0.7, gamma=0.0),
    "always resampling": SMCConfig(chunk=2, kappa=1.1, gamma=0.0),
    "tempering": SMCConfig(chunk=1, kappa=0.9, gamma=0.7),
    "uniform resampling": SMCConfig(chunk=2, kappa=1.1, gamma=1.0),
    "emphasis": SMCConfig(chunk=1, kappa=0.9, gamma=0.5, emphasis=1.0),
    "moves": SMCConfig(chunk=1, kappa=0.7, gamma=0.0, moves=2),
    "proposals": SMCConfig(chunk=2, kappa=0.0, proposals=3),
    "proposals, resampling": SMCConfig(chunk=1, kappa=0.9, gamma=0.5, proposals=2),
}


@pytest.mark.parametrize(
    ("name", "target"), [*((name, HALF) for name in CASES), ("tempering", TARGET)], ids=[*CASES, "tempering, no zeros"]
)
def test_estimate_of_z_is_unbiased(name, target):
    """The mean over 100 passes of 320 particles is Z within 4.5 standard errors (Student's t with 99 degrees, by
    chance beyond: 2e-5 a mean), and so are the unnormalised means of two functions on the target."""
    config, policy, generator = CASES[name], bad_policy(), seeded(2)
    exact = target.sample(seeded(3), 200_000).double()
    moments = torch.stack([exact[:, 0], exact[:, 1].cos()], 1)
    estimates, resampled, zeros = [], 0, 0
    for _ in range(100):
        emulator = bad_emulator if config.proposals > 1 else None
        particles, info = SMCPass(policy, bad_twist, target.log_prob, 320, config, generator, emulator).run()
        w = particles.weights.log_w.exp()
        f = torch.stack([torch.ones_like(w), particles.x[:, 0], particles.x[:, 1].cos()], 1)
        estimates.append((w[:, None] * f).mean(0))
        resampled += len(info.resampled_at)
        zeros += len(w) - particles.weights.n_positive
    z = math.exp(target.log_z)
    expected = torch.cat([torch.ones(1), moments.mean(0)]) * z
    values = torch.stack(estimates)
    assert_mean(values, expected)
    # the standard error is small enough to see a bias, and each case is what its name says
    assert float(values[:, 0].std() / 100**0.5) < 0.09 * z
    assert (resampled > 25) == (name != "importance sampling")
    assert (zeros > 100) == (target is HALF)


class Forgetful(SMCPass):
    """Sets every resampled weight to one, instead of w / (K a)."""

    def _resample(self) -> None:
        super()._resample()
        if self.info.exponents[-1] is not None:
            self.log_w = torch.zeros_like(self.log_w)


def test_a_bias_would_be_seen():
    """The same passes with forgotten weights: far out."""
    policy, generator, config, values = bad_policy(), seeded(2), CASES["always resampling"], []
    for _ in range(60):
        one = Forgetful(policy, lambda x, n: bad_twist(x, n) + 4.0 * n, TARGET.log_prob, 40, config, generator)
        values.append(one.run()[0].log_w.exp().mean())
    assert abs(float(standard_errors(torch.stack(values), math.exp(TARGET.log_z)))) > 10.0


def test_without_resampling_it_is_importance_sampling_for_every_twist():
    policy = bad_policy()
    particles, info = SMCPass(policy, bad_twist, HALF.log_prob, 200, SMCConfig(chunk=2, kappa=0.0), seeded(5)).run()
    path, log_ratio = rollout(policy, 200, seeded(5))
    torch.testing.assert_close(particles.x, path[-1])
    torch.testing.assert_close(particles.log_r, HALF.log_prob(path[-1]))
    expected = (HALF.log_prob(path[-1]) - log_ratio).double()
    torch.testing.assert_close(particles.log_w, expected, rtol=1e-4, atol=1e-4)
    assert info.resampled_at == [] and info.steps == [2, 4] and info.exponents == [None, None]
    # an ancestor whose only descendant has weight zero has none
    assert info.distinct_ancestors == int((expected > -torch.inf).sum()) < 200


def test_exact_policy_and_twist_give_equal_weights():
    target = Gaussian(torch.tensor([0.6]).double(), torch.tensor([0.5]).double(), 1, 0.8)
    policy = ExactReversal(target, ScheduleConfig(n_steps=8, prior_signal=1e-4))

    def log_twist(x: torch.Tensor, n: int) -> torch.Tensor:
        return 0.8 + policy.log_marginal(x, n)

    particles, info = SMCPass(policy, log_twist, target.log_prob, 64, SMCConfig(2, 0.2, 0.05), seeded(6)).run()
    assert info.resampled_at == [] and info.steps == [2, 4, 6, 8]
    assert min(info.ess) > 0.999 and particles.weights.ess_fraction > 0.999
    assert particles.weights.log_mean == pytest.approx(0.8, abs=1e-3)


def test_resampling_is_recorded_with_its_exponent():
    policy = bad_policy(8)
    always = SMCConfig(chunk=2, kappa=1.1, gamma=0.5)
    particles, info = SMCPass(policy, bad_twist, TARGET.log_prob, 50, always, seeded(7)).run()
    assert info.steps == [2, 4, 6, 8] and info.resampled_at == [2, 4, 6]
    assert len(info.ess) == 4 and all(0.0 < ess <= 1.0 for ess in info.ess)
    assert info.ess[-1] == particles.weights.ess_fraction and info.exponents[-1] is None  # never at the data
    for ess, exponent in zip(info.ess[:3], info.exponents[:3], strict=True):
        assert (exponent == 1.0) == (ess >= 0.5)
    assert 1 <= info.distinct_ancestors < 50
    # one boundary only: the twist is flat but at n = 4
    peaked = SMCConfig(chunk=2, kappa=0.2, gamma=0.05)

    def log_twist(x: torch.Tensor, n: int) -> torch.Tensor:
        return policy.space.log_prior(x) - (40.0 * x[:, 0].square() if n == 4 else 0.0)

    _, info = SMCPass(policy, log_twist, TARGET.log_prob, 50, peaked, seeded(8)).run()
    assert 4 in info.resampled_at and 2 not in info.resampled_at


def test_distinct_ancestors_and_the_total_weight():
    """A twist that keeps one particle leaves one ancestor, and the estimate keeps that particle's share 1 / K."""
    policy = bad_policy(2)
    first, _ = rollout(policy, 30, seeded(9))
    kept = first[1, 12].clone()

    def log_twist(x: torch.Tensor, n: int) -> torch.Tensor:
        return -1e6 * (x - kept).square().sum(-1)

    particles, info = SMCPass(policy, log_twist, TARGET.log_prob, 30, SMCConfig(1, 0.5, 0.0), seeded(9)).run()
    assert info.resampled_at == [1] and info.exponents == [1.0, None] and info.distinct_ancestors == 1
    assert len(particles.x.unique(dim=0)) == 30  # one parent, thirty different steps


def test_collapsed_particles_do_not_stop_a_run():
    policy = bad_policy(4)
    nowhere = lambda x: torch.full((len(x),), -torch.inf)  # noqa: E731
    particles, info = SMCPass(policy, bad_twist, nowhere, 20, SMCConfig(2, 1.1, 0.05), seeded(10)).run()
    assert particles.weights.collapsed and particles.weights.log_mean == -math.inf
    assert info.distinct_ancestors == 0


def test_a_chunk_that_does_not_divide_the_steps_leaves_a_shorter_one_at_the_end():
    """A configuration refuses it (`TrainConfig.check`); a pass walks it all the same, to the data."""
    policy = bad_policy(4)
    particles, info = SMCPass(policy, bad_twist, TARGET.log_prob, 8, SMCConfig(chunk=3, kappa=0.0), seeded(0)).run()
    path, log_ratio = rollout(policy, 8, seeded(0))
    assert info.steps == [3, 4] and torch.equal(particles.x, path[-1])
    expected = (TARGET.log_prob(path[-1]) - log_ratio).double()
    torch.testing.assert_close(particles.log_w, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(CASES))
def test_a_pass_can_be_walked_step_by_step(name):
    """Between two steps the pass says where its particles are; at the end it is what `run` gives."""
    config, policy = CASES[name], bad_policy()
    whole, told = SMCPass(policy, bad_twist, HALF.log_prob, 60, config, seeded(12)).run()
    one = SMCPass(policy, bad_twist, HALF.log_prob, 60, config, seeded(12))
    torch.testing.assert_close(one.x, policy.process.sample_prior(60, seeded(12)))
    torch.testing.assert_close(one.log_f, policy.process.log_prior(one.x))
    assert one.n == 0 and bool((one.log_w == 0.0).all()) and one.info.steps == []
    for k, end in enumerate(range(config.chunk, 5, config.chunk), start=1):
        assert not one.done
        one.step()
        assert one.n == end and one.info.steps == told.steps[:k] and one.info.ess == told.ess[:k]
        at_end = HALF.log_prob(one.x) if end == 4 else bad_twist(one.x, end)
        torch.testing.assert_close(one.log_f, at_end)
    assert one.done and torch.equal(one.x, whole.x) and torch.equal(one.log_w, whole.log_w)
    again, info = one.run()  # nothing is left to walk
    assert torch.equal(again.log_w, whole.log_w) and torch.equal(again.log_r, whole.log_r)
    assert info.exponents == told.exponents and info.distinct_ancestors == told.distinct_ancestors


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_increments_add_up_to_the_weights_where_nothing_is_resampled(chunk):
    """One entry a chunk, of every particle: log F_end - log F_start - sum (log p_F - log p_B) of its own path."""
    policy = bad_policy()
    config = SMCConfig(chunk=chunk, kappa=0.0)
    particles, info = SMCPass(policy, bad_twist, HALF.log_prob, 50, config, seeded(13)).run()
    assert len(info.increments) == len(info.steps) == len(info.ess) == 4 // chunk
    assert all(step.shape == (50,) and step.dtype == torch.float64 for step in info.increments)
    torch.testing.assert_close(torch.stack(info.increments).sum(0), particles.log_w)
    path, _ = rollout(policy, 50, seeded(13))
    t = score_states(policy, path, HALF.log_prob(path[-1]))
    ends = tuple(range(chunk, 4, chunk))
    log_f = torch.stack([bad_twist(path[n], n) for n in ends]) if ends else None
    t = t.with_flow(ends, log_f)
    flow = t.flow(torch.zeros(()))
    expected = (flow[1:] - flow[:-1] - t.by_chunk()).double().detach()
    torch.testing.assert_close(torch.stack(info.increments), expected, rtol=1e-4, atol=1e-4)


def test_a_seed_gives_the_same_run():
    policy, config = bad_policy(), CASES["tempering"]
    one, two = (SMCPass(policy, bad_twist, TARGET.log_prob, 30, config, seeded(11)).run()[0] for _ in range(2))
    assert torch.equal(one.x, two.x) and torch.equal(one.log_w, two.log_w)


def test_emphasis_resamples_where_the_loss_is():
    """Of two like groups of particles, one off by log 3 from the other, equal weights aside: a path's discrepancy from
    the mean, here log 1.5 and -log 2, gives (1 + delta^2)^emphasis as many offspring; the weights make up for it."""
    config = SMCConfig(chunk=2, kappa=1.1, gamma=1.0, emphasis=3.0)  # lambda = 0: nothing but the loss
    policy = bad_policy(4)
    half = torch.arange(4000) < 2000

    one = SMCPass(policy, bad_twist, TARGET.log_prob, 4000, config, seeded(16))
    log_path = torch.where(half, math.log(1.5), math.log(0.5)).double()
    one.log_w, one._log_path = log_path.clone(), log_path.clone()
    one.n, one.log_f = 2, torch.where(half, 1.0, 2.0).double()
    one._resample()
    factor = (1.0 + torch.tensor([math.log(1.5), math.log(0.5)]).square()) ** 3
    first = one.log_f == 1.0
    assert int(first.sum()) == pytest.approx(4000 * float(factor[0] / factor.sum()), abs=1.5)
    assert float(one.log_w[first].exp().sum()) == pytest.approx(2000 * 1.5, rel=2e-3)
    assert float(one.log_w[~first].exp().sum()) == pytest.approx(2000 * 0.5, rel=2e-3)


def test_a_path_without_hope_has_a_loss_that_is_bounded():
    """Zero weights stay zero, and a path that is 60 off counts as one that is ten off."""
    one = SMCPass(bad_policy(4), bad_twist, TARGET.log_prob, 4, SMCConfig(2, 1.1, 1.0, emphasis=0.5), seeded(17))
    one._log_path = torch.tensor([0.0, -60.0, -math.inf, 3.0]).double()
    weights = LogWeights(torch.tensor([0.0, -60.0, -math.inf, 3.0])).power(0.0)
    expected = torch.tensor([0.0, 0.5 * math.log(100.0), -math.inf, 0.5 * math.log(10.0)]).double()
    torch.testing.assert_close(one._emphasised(weights, 0.0).log_w, expected)


def test_an_emulator_chooses_among_the_proposals_whose_energy_is_asked():
    """60 energies of 240 walked; with the target's own log R as emulator nothing is left to weigh."""
    asked: list[int] = []

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return TARGET.log_prob(x)

    config = SMCConfig(chunk=2, kappa=0.0, proposals=4)
    one = SMCPass(bad_policy(), bad_twist, log_prob, 60, config, seeded(14), TARGET.log_prob)
    assert len(one.x) == 240
    particles, info = one.run()
    assert asked == [60] and len(particles.x) == len(particles.log_r) == len(particles.log_w) == 60
    torch.testing.assert_close(particles.log_r, TARGET.log_prob(particles.x))
    assert float(particles.log_w.std()) < 1e-5 and particles.weights.ess_fraction == pytest.approx(1.0)
    plain, _ = SMCPass(bad_policy(), bad_twist, TARGET.log_prob, 240, SMCConfig(2, 0.0), seeded(14)).run()
    assert particles.weights.log_mean == pytest.approx(plain.weights.log_mean, abs=1e-5)  # of all that were walked
    assert info.steps == [2, 4, 4] and info.exponents == [None, 1.0, None] and info.resampled_at == [4]
    assert [len(part) for part in info.increments] == [240, 240, 60] and info.distinct_ancestors <= 60
    assert info.ess[1] == pytest.approx(plain.weights.ess_fraction, abs=1e-5)


def test_proposals_without_a_hope_leave_a_pass_without_weight():
    """Where everything had died before the data: the pass has the size that was asked for, and all weights are zero."""
    config = SMCConfig(chunk=2, kappa=0.0, proposals=2)
    one = SMCPass(bad_policy(), bad_twist, TARGET.log_prob, 30, config, seeded(15), TARGET.log_prob)
    one.step()
    one.log_w = torch.full_like(one.log_w, -torch.inf)
    particles, info = one.run()
    assert len(particles.x) == 30 and info.exponents == [None, None, None]
    assert bool((particles.log_w == -torch.inf).all()) and particles.weights.collapsed


@pytest.mark.parametrize("broken", [3, 59], ids=["among the first", "among the last"])
def test_one_broken_proposal_is_not_hidden(broken):
    """Whoever asked for the pass sees that it is broken, wherever among its proposals."""
    config = SMCConfig(chunk=2, kappa=0.0, proposals=2)

    def emulator(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(x)) == broken, torch.nan, TARGET.log_prob(x))

    particles, info = SMCPass(bad_policy(), bad_twist, TARGET.log_prob, 30, config, seeded(15), emulator).run()
    assert len(particles.x) == 30 and info.exponents == [None, None, None]
    assert int(particles.log_w.isnan().sum()) == 1
