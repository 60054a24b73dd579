"""The trainer on a density whose normalisation is known: it learns, repeats itself, resumes, and keeps poison out."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch

from molsampler.analysis.pictures.training import PANELS
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.trajectories import rollout
from molsampler.diffusion.twist import TwistConfig
from molsampler.smc.annealed import AnnealConfig, Prefill, annealed_smc
from molsampler.smc.sampler import SMCConfig
from molsampler.training.config import (
    BatchConfig,
    MovesConfig,
    OptimiserConfig,
    PassConfig,
    PrefillConfig,
    ReplayConfig,
    RolloutConfig,
    TrainConfig,
)
from molsampler.training.trainer import Trainer
from tests.stochastic import seeded
from tests.targets.analytic import TwoWells

LOG_Z = 1.7
CONFIG = TrainConfig(
    warm_updates=150,
    updates=60,
    precision="float32",
    compile=False,
    evaluation_samples=2000,
    schedule=ScheduleConfig(4, circle_min=0.4),
    policy=PolicyConfig(16, 2),
    twist=TwistConfig(16, 2),
    smc=SMCConfig(chunk=2, kappa=1.1),
    anneal=AnnealConfig(particles=256, moves=4, last_moves=10),
    optimiser=OptimiserConfig(warm_rate=2e-2, rate=2e-3, ramp=10, ema=0.95),
    batch=BatchConfig(denoising=1024, balance=64),
    replay=ReplayConfig(capacity=5000),
    passes=PassConfig(particles=64),
    moves=MovesConfig(every=5, parents=64, steps=2),
    rollouts=RolloutConfig(number=0),
    prefill=PrefillConfig(frames=8, steps=5),
)
SHORT = dataclasses.replace(CONFIG, warm_updates=7, updates=9, evaluation_samples=64)


class Counted(TwoWells):
    """TwoWells that books its evaluations, as a molecule does."""

    def log_prob_and_score(self, x):
        self.counter.add(len(x))
        return super().log_prob_and_score(x)


class Poisoned(TwoWells):
    """TwoWells whose log R and score break, once told to, on some of the states."""

    poison = ""

    def log_prob_and_score(self, x):
        log_r, score = super().log_prob_and_score(x)
        hit = torch.arange(len(x)) % 7 == 3
        if self.poison == "score":
            return log_r, torch.where(hit[:, None], torch.nan, score)
        if self.poison:
            log_r = torch.where(hit, float(self.poison), log_r)
        return log_r, score


def make(config: TrainConfig = CONFIG, target: TwoWells | None = None, seed: int = 0) -> Trainer:
    trainer = Trainer(target or TwoWells(LOG_Z), dataclasses.replace(config, seed=seed), seeded(seed))
    with trainer.target.counter.purpose("prefill"):
        found = annealed_smc(trainer.target.log_prob_and_score, trainer.target.space, config.anneal, trainer.generator)
    trainer.begin(Prefill(found.state, found.log_z, found.explorers, found.explorer_log_w))
    return trainer


def train(trainer: Trainer, until: int | None = None) -> Trainer:
    while trainer.done < (trainer.total if until is None else until):
        trainer.update()
    return trainer


def flat(state, path: str = "") -> dict:
    """A nested state as one level, without the seconds, which no two runs share."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {path: state}
    return {k: v for name, value in items if name != "phase_seconds" for k, v in flat(value, f"{path}/{name}").items()}


def assert_same(one: dict, two: dict) -> None:
    one, two = flat(one), flat(two)
    assert one.keys() == two.keys()
    for name, value in one.items():
        other = two[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other), name
        else:
            assert value == other or (value != value and other != other), name


def assert_finite(trainer: Trainer) -> None:
    learner, buffer = trainer.learner, trainer.buffer
    held = [*learner.policy.state_dict().values(), *learner.twist.state_dict().values(), *learner.averaged]
    held += [learner.log_z.detach(), trainer.control_variate.cross, trainer.control_variate.square]
    held += [part[: len(buffer)] for part in (buffer.x, buffer.score, buffer.log_r, buffer.log_w)]
    for optimiser in (learner.policy_optimiser, learner.twist_optimiser, learner.log_z_optimiser):
        held += [v for state in optimiser.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert all(bool(torch.isfinite(value).all()) for value in held)


@pytest.fixture(scope="module")
def trained() -> tuple[Trainer, dict, dict]:
    """A whole short run: the trainer, and its rows before and after."""
    trainer = make(target=Counted(LOG_Z))
    before = trainer.evaluate()
    train(trainer)
    return trainer, before, trainer.evaluate()


def test_training_raises_the_ess_and_finds_log_z(trained):
    """An untrained policy is the prior; the ESS must come out well above. log Z by the weights of 10,000 fresh samples
    of the averaged policy is within 4.5 standard errors (7e-6 by chance)."""
    trainer, before, after = trained
    assert before["ess"] < 0.45 and after["ess"] > 0.6
    assert after["elbo"] > before["elbo"] + 0.5 and after["elbo"] < LOG_Z
    states, log_ratio = trainer.learner.with_averaged(lambda policy: rollout(policy, 10_000, seeded(5)))
    log_w = trainer.target.log_prob(states[-1]).double() - log_ratio.double()
    relative = (log_w - LOG_Z).exp()
    error = float(relative.std()) / math.sqrt(len(relative))
    assert error < 0.03 and abs(float(relative.mean()) - 1.0) < 4.5 * error
    assert after["log_z_estimate"] == pytest.approx(LOG_Z, abs=4.5 * math.sqrt((1 / after["ess"] - 1) / 2000))
    assert after["log_z"] == pytest.approx(LOG_Z, abs=0.25)


def test_the_row_has_what_the_figures_read(trained):
    _, before, after = trained
    for panel in PANELS:
        found = [name for name in after if name in panel.columns or any(name.startswith(p) for p in panel.prefixes)]
        assert found, panel.title
        assert any(math.isfinite(after[name]) for name in found), panel.title
    assert {"update", "seconds", "phase"} <= after.keys() and before.keys() == after.keys()
    assert (before["update"], after["update"]) == (0, CONFIG.warm_updates + CONFIG.updates)
    purposes = [name for name in after if name.startswith("evaluations_") and name != "evaluations_non_finite"]
    assert sum(after[name] for name in purposes) == after["energy_evaluations"] > before["energy_evaluations"] > 0


def test_smc_tells_where_it_resampled_and_how(trained):
    """kappa above 1 resamples at the one chunk end, n = 2, of every run: one run every second replay update."""
    _, before, after = trained
    replays = sum(k % (CONFIG.behaviour.replay_updates + 1) != 0 for k in range(CONFIG.updates))
    assert before["smc_runs"] == 0 and math.isnan(before["distinct_ancestors"])
    runs = replays // CONFIG.behaviour.smc_every
    assert after["smc_runs"] + after["smc_collapsed"] == runs and after["resampling_steps"] == 1.0
    assert after["smc_resampled_at"] == f"2:{after['smc_runs']}"
    assert 1 <= after["distinct_ancestors"] < CONFIG.behaviour.smc_particles and 0 < after["smc_lambda"] <= 1
    assert after["smc_log_z"] == pytest.approx(LOG_Z, abs=0.5)


def test_the_same_seed_gives_the_same_parameters_and_another_does_not():
    one, two, other = (train(make(SHORT, seed=seed)) for seed in (3, 3, 4))
    assert_same(one.state_dict(), two.state_dict())
    pairs = zip(one.learner.policy.parameters(), other.learner.policy.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("stop", [3, 7, 12], ids=["in denoising", "at the boundary", "in trajectory balance"])
def test_a_saved_trainer_goes_on_exactly(stop):
    """Through torch.save and torch.load(weights_only=True) into a fresh trainer, against one that never stopped."""
    trainer = train(make(SHORT), stop)
    trainer.evaluate()
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    train(trainer)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    loaded = Trainer(TwoWells(LOG_Z), SHORT, torch.Generator())
    loaded.load_state_dict(state)
    assert loaded.done == stop
    train(loaded)
    assert_same(trainer.state_dict(), loaded.state_dict())
    assert_same({**trainer.evaluate(), "seconds": 0}, {**loaded.evaluate(), "seconds": 0})
    file.seek(0)
    assert_same(state, torch.load(file, weights_only=True))  # training on did not write into what it was given


def test_plan_leaves_no_trace_and_fills_the_budget():
    config = dataclasses.replace(SHORT, warm_updates=0, updates=0, minutes=0.5, warm_share=0.75)
    trainer = make(config)
    before = trainer.state_dict()
    seconds = trainer.plan()
    after = trainer.state_dict()
    planned = [after.pop(name) for name in ("warm_updates", "updates")]
    for name in ("warm_updates", "updates"):
        before.pop(name)
    assert_same(before, after)
    assert all(s > 0 and math.isfinite(s) for s in seconds)
    for n, s, share in zip(planned, seconds, (0.75, 0.25), strict=True):
        assert 1 <= n <= 30.0 * share / s + 1  # local moves take their part of the budget
    fixed = make(SHORT)
    assert all(math.isnan(s) for s in fixed.plan()) and fixed.total == SHORT.warm_updates + SHORT.updates


@pytest.mark.parametrize("poison", ["nan", "inf", "-inf", "score"])
@pytest.mark.parametrize("partial_energy", [False, True], ids=["plain twist", "partial energy"])
def test_a_target_that_breaks_poisons_nothing(poison, partial_energy):
    config = dataclasses.replace(SHORT, twist=TwistConfig(16, 2, partial_energy=partial_energy))
    target = Poisoned(LOG_Z)
    trainer = make(config, target)
    target.poison = poison
    train(trainer)
    row = trainer.evaluate()
    assert_finite(trainer)
    assert math.isfinite(row["log_z"]) and math.isfinite(row["log_z_estimate"]) and 0 < row["ess"] <= 1
    if poison == "-inf":
        assert row["outside_support"] > 0.1 and not trainer.learner.skipped  # no fault: outside the support
        return
    assert trainer.buffer.rejected >= 64 // 7
    if poison != "score":  # log R itself enters the loss of the policy's own rollouts, and the weights of SMC
        assert trainer.learner.skipped["policy: loss not finite"] > 0 and row["smc_collapsed"] > 0


def test_evaluation_counts_what_it_keeps_out_of_the_buffer():
    target = Poisoned(LOG_Z)
    trainer = make(SHORT, target)
    target.poison = "nan"
    trainer.evaluate()
    assert trainer.buffer.rejected == sum(k % 7 == 3 for k in range(SHORT.evaluation_samples))


def test_poison_in_the_buffer_is_skipped_and_forgotten():
    trainer = train(make(SHORT), 2)
    clean = trainer.buffer.state_dict()
    before = [p.detach().clone() for p in trainer.learner.policy.parameters()]
    trainer.buffer.score[: len(trainer.buffer)] = torch.nan
    assert math.isnan(trainer.update())
    assert trainer.learner.skipped == {"policy: loss not finite": 1}
    assert all(torch.equal(a, p) for a, p in zip(before, trainer.learner.policy.parameters(), strict=True))
    trainer.buffer.load_state_dict(clean)
    assert math.isfinite(trainer.update())  # the control variate has not taken it in
    assert_finite(trainer)


def test_averaged_policy_samples_with_the_average():
    trainer = train(make(SHORT), 10)
    averaged = [value.clone() for value in trainer.learner.averaged]
    policy = averaged_policy(trainer)
    assert all(torch.equal(a, p) for a, p in zip(averaged, policy.parameters(), strict=True))
    states, log_ratio = rollout(policy, 50, seeded(0))
    assert LogWeights(trainer.target.log_prob(states[-1]) - log_ratio).ess > 1.0


def test_a_chunk_that_does_not_divide_the_steps_is_refused_at_once():
    with pytest.raises(InputError, match="3"):
        Trainer(TwoWells(), dataclasses.replace(SHORT, smc=SMCConfig(chunk=3)), seeded(0))


def test_local_moves_by_the_targets_own_dynamics_stop_at_their_limit():
    """States that the dynamics take off the support are their parents again; once the evaluations granted are spent,
    training goes on without moves."""

    class Drifting(TwoWells):
        def local_moves(self, x, n_steps, generator):
            self.counter.add(len(x) * n_steps)
            return torch.where(torch.arange(len(x))[:, None] % 2 == 0, x + 0.01, x - 100.0)

    target = Drifting(wall=-2.0)
    behaviour = BehaviourConfig(
        moves="md", moves_every=1, moves_parents=8, moves_steps=4, moves_limit=100, capacity=64, warm_batch=16
    )
    trainer = Trainer(
        target,
        TrainConfig(
            warm_updates=9,
            updates=1,
            precision="float32",
            compile=False,
            behaviour=behaviour,
            schedule=ScheduleConfig(n_steps=4),
            policy=PolicyConfig(width=8),
            smc=SMCConfig(chunk=2),
        ),
        torch.Generator().manual_seed(0),
    )
    x = target.sample(torch.Generator().manual_seed(1), 32).float()
    log_r, score = target.log_prob_and_score(x)
    trainer.buffer.add(x, log_r, score, torch.zeros(32))
    for _ in range(9):
        trainer.update()
    # a round is 8 * 4 evaluations of dynamics and 8 of the states reached: three rounds pass 100
    assert target.counter.by_purpose["md"] == 3 * 32 and target.counter.by_purpose["local_moves"] == 3 * 8
    assert len(trainer.buffer) == 32 + 3 * 8 and trainer.buffer.rejected == 0
    assert bool((trainer.buffer.x[: len(trainer.buffer), 0] > -2.0).all())
