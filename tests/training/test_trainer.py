"""The trainer on a density whose normalisation is known: it learns, repeats itself, resumes, and keeps poison out."""

from __future__ import annotations

import io
import math
from typing import get_args, get_type_hints

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.settings import change
from molsampler.smc.trained import SMC_PASSES
from molsampler.training.config import TrainConfig
from molsampler.training.trainer import FIRST_ROLLOUTS, Trainer
from tests.stochastic import seeded
from tests.targets.analytic import TwoWells
from tests.training.small import CONFIG, LOG_Z, SHORT, assert_same, make, train


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


def assert_finite(trainer: Trainer) -> None:
    learner, buffer = trainer.learner, trainer.behaviours.buffer
    held = [v for module in (learner.policy, learner.twist, learner.averaged) for v in module.state_dict().values()]
    held += [learner.log_z.detach(), trainer.control_variate.cross, trainer.control_variate.square]
    held += [part[: len(buffer)] for part in (buffer.x, buffer.score, buffer.log_r, buffer.log_w)]
    for optimiser in (learner.policy_optimiser, learner.twist_optimiser, learner.log_z_optimiser):
        held += [v for state in optimiser.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert all(bool(torch.isfinite(value).all()) for value in held)


@pytest.fixture(scope="module")
def trained() -> tuple[Trainer, dict, dict]:
    """A whole short run: the trainer, and its rows before and after."""
    trainer = make()
    before = trainer.evaluate()
    train(trainer)
    return trainer, before, trainer.evaluate()


def test_training_raises_the_ess_and_finds_log_z(trained):
    """An untrained policy is the prior; the ESS must come out well above. log Z by the weights of 10,000 samples of the
    averaged policy is within 4.5 standard errors (7e-6 by chance)."""
    trainer, before, after = trained
    assert before["ess"] < 0.45 and after["ess"] > 0.6
    assert after["elbo"] > before["elbo"] + 0.5 and after["elbo"] < LOG_Z
    relative = (trainer.sampler().draw(10_000, seeded(5)).log_w - LOG_Z).exp()
    error = float(relative.std()) / math.sqrt(len(relative))
    assert error < 0.03 and abs(float(relative.mean()) - 1.0) < 4.5 * error
    assert after["log_z_estimate"] == pytest.approx(LOG_Z, abs=4.5 * math.sqrt((1 / after["ess"] - 1) / 2000))
    assert after["log_z"] == pytest.approx(LOG_Z, abs=0.25)
    assert after["log_z_running"] == pytest.approx(LOG_Z, abs=0.25)


def test_smc_tells_where_it_resampled_and_how(trained):
    """kappa above 1 resamples at the one chunk end, n = 2, of every pass: one pass every second replay update."""
    _, before, after = trained
    replays = sum(k % (CONFIG.batch.replay_updates + 1) != 0 for k in range(CONFIG.updates))
    assert before["smc_runs"] == 0 and math.isnan(before["distinct_ancestors"])
    passes = replays // CONFIG.passes.every
    assert after["smc_runs"] + after["smc_collapsed"] == passes and after["resampling_steps"] == 1.0
    assert after["smc_resampled_at"] == f"2:{after['smc_runs']}"
    assert 1 <= after["distinct_ancestors"] < CONFIG.passes.particles and 0 < after["smc_lambda"] <= 1
    assert after["smc_log_z"] == pytest.approx(LOG_Z, abs=0.5)


def test_the_sampler_is_the_averaged_policy_and_follows_training():
    trainer = train(make(SHORT), 10)
    sampler = trainer.sampler()
    averaged = [p.clone() for p in trainer.learner.averaged.parameters()]
    assert all(torch.equal(a, p) for a, p in zip(averaged, sampler.policy.parameters(), strict=True))
    learning = trainer.learner.policy.parameters()
    assert not all(torch.equal(a, p) for a, p in zip(averaged, learning, strict=True))
    drawn = sampler.draw(50, seeded(0))
    assert LogWeights(drawn.log_w).ess > 1.0 and torch.equal(sampler.log_z, trainer.learner.log_z)
    x = drawn.x[:5]
    torch.testing.assert_close(sampler.log_twist(x, 2), trainer.twisting.log_twist(x, 2))
    train(trainer)
    assert not torch.equal(sampler.draw(50, seeded(0)).x, drawn.x)


@pytest.mark.parametrize("objective", get_args(get_type_hints(TrainConfig)["objective"]))
def test_every_objective_trains_what_it_says(objective):
    """The policy and log Z always, the twist but for reverse KL, whose sampler therefore refuses SMC."""
    trainer = train(make(change(SHORT, objective=objective)), SHORT.warm_updates + 1)
    parts = (trainer.learner.policy, trainer.learner.twist)
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    log_z = trainer.learner.log_z.item()
    train(trainer)
    changed = [
        any(not torch.equal(a, p) for a, p in zip(old, part.parameters(), strict=True))
        for old, part in zip(before, parts, strict=True)
    ]
    assert changed == [True, objective != "reverse_kl"] and trainer.learner.log_z.item() != log_z
    assert math.isfinite(trainer.last_loss) and not trainer.learner.skipped
    sampler = trainer.sampler()
    if objective == "reverse_kl":
        with pytest.raises(InputError, match="^the twist of this run was not trained"):
            sampler.smc(2 * SMC_PASSES, seeded(0))
    else:
        assert len(sampler.smc(2 * SMC_PASSES, seeded(0)).x) == 2 * SMC_PASSES


# what looks never touches what learns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("partial_energy", [False, True], ids=["plain twist", "partial energy"])
def test_looking_leaves_no_trace(partial_energy):
    """Whatever is drawn or asked, all that training goes on from is as before, to the last bit; only what was evaluated
    for analysis is booked."""
    trainer = train(make(change(SHORT, twist={"partial_energy": partial_energy})), 12)
    trainer.evaluate()  # takes the report on SMC passes
    before = trainer.state_dict()
    booked = trainer.target.counter.by_purpose["analysis"]
    sampler = trainer.sampler()
    sampler.draw(100, seeded(0))
    sampler.smc(2 * SMC_PASSES, seeded(1))
    x = trainer.target.sample(seeded(2), 20).float()
    sampler.path_log_weights(x, trainer.target.log_prob(x), seeded(3))
    sampler.log_twist(x, 2)
    trainer.evaluate()
    after = trainer.state_dict()
    assert after["counter"]["by_purpose"].pop("analysis") > booked
    before["counter"]["by_purpose"].pop("analysis")
    assert_same(before, after)


def test_how_often_one_looks_changes_no_number_that_is_trained():
    often, never = make(SHORT), make(SHORT)
    while often.done < often.total:
        often.evaluate()
        often.update()
    often.evaluate()
    train(never)
    one, two = often.state_dict(), never.state_dict()
    for state in (one, two):
        state["counter"]["by_purpose"].pop("analysis", None)
        state["behaviours"].pop("report")  # what the passes did since the last row, which a row takes
    assert_same(one, two)


def test_a_row_depends_on_the_parameters_alone():
    """Two looks at one state see the same samples; the next state is seen by others."""
    trainer = train(make(SHORT), 9)
    first, second = trainer.evaluate(), trainer.evaluate()
    for name in ("ess", "elbo", "log_z_estimate", "outside_support", "log_z"):
        assert first[name] == second[name]
    assert second["smc_runs"] == 0  # the report was taken
    trainer.update()
    assert trainer.evaluate()["elbo"] != first["elbo"]


def test_poisoned_looking_keeps_nothing():
    target = Poisoned(LOG_Z)
    trainer = make(SHORT, target)
    target.poison = "nan"
    row = trainer.evaluate()
    assert row["outside_support"] == pytest.approx(sum(k % 7 == 3 for k in range(64)) / 64)
    assert trainer.behaviours.buffer.rejected == 0 and math.isfinite(row["elbo"])


# repeating and resuming -----------------------------------------------------------------------------------------------


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
    assert loaded.done == stop and loaded.phase_seconds == state["phase_seconds"]
    train(loaded)
    assert_same(trainer.state_dict(), loaded.state_dict())
    assert_same(trainer.evaluate(), loaded.evaluate())
    file.seek(0)
    assert_same(state, torch.load(file, weights_only=True))  # training on did not write into what it was given


def test_more_minutes_add_updates_of_the_objective_at_its_pace():
    trainer = train(make(SHORT))
    trainer.phase_seconds = {"denoising": 30.0, "balance": 18.0}  # 2 s an update of balance
    trainer.extend(2.0)  # 120 s in all, 48 made
    assert trainer.config.minutes == 2.0 and trainer.warm_updates == SHORT.warm_updates
    assert trainer.updates == SHORT.updates + 36
    for minutes in (1.0, 2.0):  # 48 s made and 72 s planned
        with pytest.raises(InputError, match=f"^minutes = {minutes:g} adds nothing: .* 2 minutes already"):
            trainer.extend(minutes)
    assert trainer.updates == SHORT.updates + 36
    # where balance has not begun, by the pace of denoising
    young = train(make(SHORT), 4)
    young.phase_seconds = {"denoising": 4.0, "balance": 0.0}
    young.extend(1.0)
    assert young.total == 60 and young.warm_updates == SHORT.warm_updates
    train(young, 8)
    # of denoising, where that is all there is
    whole = train(make(change(SHORT, updates=0)))
    whole.phase_seconds = {"denoising": 14.0, "balance": 0.0}
    whole.extend(1.0)
    assert whole.updates == 0 and whole.total == whole.warm_updates == 30
    assert train(whole).phase_seconds["balance"] == 0.0


# from scratch ---------------------------------------------------------------------------------------------------------

SCRATCH = change(SHORT, start="scratch", warm_updates=0, updates=8, rollouts={"number": 0})


def test_from_scratch_without_denoising():
    """The buffer, log Z and the knee come from rollouts of the untrained policy, and balance begins at once."""
    trainer = make(SCRATCH)
    buffer = trainer.behaviours.buffer
    assert len(buffer) == FIRST_ROLLOUTS and len(trainer.behaviours.explored) == 0
    assert trainer.learner.log_z.item() == pytest.approx(LogWeights(buffer.log_w[:FIRST_ROLLOUTS]).log_mean)
    assert trainer.learner.log_z.item() == pytest.approx(LOG_Z, abs=0.3)
    lowest = float(torch.quantile(buffer.log_r[:FIRST_ROLLOUTS], 0.01))
    assert trainer.surrogate.knee == pytest.approx(lowest - SCRATCH.surrogate_margin)
    assert trainer.phase == "trajectory balance" and not trainer.denoises
    before = [p.detach().clone() for p in trainer.learner.policy.parameters()]
    train(trainer)
    assert trainer.done == 8 and trainer.phase_seconds["denoising"] == 0.0
    assert not all(torch.equal(a, p) for a, p in zip(before, trainer.learner.policy.parameters(), strict=True))
    assert trainer.control_variate.seen == 0  # nothing was denoised
    row = trainer.evaluate()
    assert math.isnan(row["denoising_loss"]) and math.isfinite(row["loss"])
    loaded = Trainer(TwoWells(LOG_Z), SCRATCH, torch.Generator())
    loaded.load_state_dict(trainer.state_dict())  # the control variate's tensors are not there yet
    assert loaded.control_variate.cross is None


def test_from_scratch_with_states_that_break():
    """Rollouts whose density is no number are left out; the others still say where log Z begins."""
    target = Poisoned(LOG_Z)
    target.poison = "nan"
    trainer = make(SCRATCH, target)
    assert trainer.learner.log_z.item() == pytest.approx(LOG_Z, abs=0.4)
    assert trainer.behaviours.buffer.rejected == sum(k % 7 == 3 for k in range(FIRST_ROLLOUTS))
    target.poison = ""
    assert math.isfinite(trainer.update())  # and training can go on


def test_from_scratch_off_the_support_is_told():
    with pytest.raises(InputError, match=f'none of {FIRST_ROLLOUTS} rollouts .* begin with start = "annealed"$'):
        make(SCRATCH, TwoWells(wall=9.0))


# what is refused, and poison ------------------------------------------------------------------------------------------


def test_settings_that_do_not_go_together_are_refused_at_once():
    with pytest.raises(InputError, match="^the SMC chunk of 3 steps does not divide the 4 steps"):
        Trainer(TwoWells(), change(SHORT, smc={"chunk": 3}), seeded(0))
    with pytest.raises(InputError, match="^warm_updates = 0 and updates = 0 train nothing"):
        Trainer(TwoWells(), change(SHORT, warm_updates=0, updates=0), seeded(0))
    TrainConfig(warm_updates=0).check()  # the other is left to the budget


@pytest.mark.parametrize("poison", ["nan", "inf", "-inf", "score"])
@pytest.mark.parametrize("partial_energy", [False, True], ids=["plain twist", "partial energy"])
def test_a_target_that_breaks_poisons_nothing(poison, partial_energy):
    target = Poisoned(LOG_Z)
    trainer = make(change(SHORT, twist={"partial_energy": partial_energy}), target)
    target.poison = poison
    train(trainer)
    row = trainer.evaluate()
    assert_finite(trainer)
    assert math.isfinite(row["log_z"]) and math.isfinite(row["log_z_estimate"]) and 0 < row["ess"] <= 1
    seen = target.sample(seeded(1), 20).float()
    assert bool(torch.isfinite(trainer.twisting.log_twist(seen, 2)).all())  # DESIGN: F is finite everywhere
    assert math.isfinite(row["log_z_running"]) or poison in ("nan", "inf")  # there every batch has one that breaks
    if poison == "-inf":
        assert row["outside_support"] > 0.1 and not trainer.learner.skipped  # no fault: outside the support
        return
    assert trainer.behaviours.buffer.rejected >= 64 // 7
    if poison != "score":  # log R itself enters the loss of the policy's own rollouts, and the weights of SMC
        assert trainer.learner.skipped["policy: loss not finite"] > 0 and row["smc_collapsed"] > 0


def test_poison_in_the_buffer_is_skipped_and_forgotten():
    trainer = train(make(SHORT), 2)
    buffer = trainer.behaviours.buffer
    clean = buffer.state_dict()
    before = [p.detach().clone() for p in trainer.learner.policy.parameters()]
    buffer.score[: len(buffer)] = torch.nan
    assert math.isnan(trainer.update())
    assert trainer.learner.skipped == {"policy: loss not finite": 1}
    assert all(torch.equal(a, p) for a, p in zip(before, trainer.learner.policy.parameters(), strict=True))
    buffer.load_state_dict(clean)
    assert math.isfinite(trainer.update())  # the control variate has not taken it in
    assert_finite(trainer)


def test_balance_of_torsions_alone_leaves_the_diffusion_to_denoising():
    """The same updates with two batches of states to denoise: the mixtures follow the objective alone, the diffusion
    differs; and the weights' estimate of log Z is right."""
    config = change(CONFIG, schedule={"torsions": "first"}, balanced="torsions")
    trainer = make(config)
    while trainer.done < trainer.total:
        trainer.update()
    drawn = trainer.sampler().draw(4000, seeded(3))
    weights = LogWeights(drawn.log_w)
    assert weights.ess_fraction > 0.8
    assert abs(weights.log_mean - LOG_Z) < 5.0 * math.sqrt((1.0 / weights.ess_fraction - 1.0) / 4000)

    trainer.balance(0, 0.5)
    first, rates = CONFIG.optimiser, [group["lr"] for group in trainer.learner.policy_optimiser.param_groups]
    assert rates == [0.5 * first.warm_rate, 0.5 * first.rate]  # of the diffusion, of the mixtures

    def gradients(mix) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        policy = trainer.learner.policy
        trainer.control_variate.mix, trainer.generator = mix, trainer.generator.manual_seed(4)
        trainer.behaviours.generator = trainer.generator
        trainer.balance(0, 1e-12)
        return tuple([p.grad.clone() for p in part.parameters()] for part in policy.policies)

    (mixtures, line), (same, other) = gradients(lambda a, w: a), gradients(lambda a, w: a + w)
    assert all(torch.equal(a, b) for a, b in zip(mixtures, same, strict=True)) and any(bool(g.any()) for g in mixtures)
    assert not any(torch.equal(a, b) for a, b in zip(line[:1], other[:1], strict=True))


@pytest.mark.parametrize("warm_updates", [0, 6])
def test_rates_rise_on_where_denoising_is_shorter_than_their_ramp(warm_updates):
    """A diffusion that goes on with denoising has no new optimisers in balance, and what is left of the ramp."""
    config = change(SHORT, schedule={"torsions": "first"}, balanced="torsions", optimiser={"ramp": 20})
    trainer = make(change(config, warm_updates=warm_updates, updates=1000))
    shares = []
    for trainer.done in range(30):
        shares.append(trainer._share())
    assert shares[:20] == pytest.approx([(k + 1) / 20 for k in range(20)], rel=0.01)
    assert min(shares[20:]) > 0.99 and shares[29] == trainer.learner.rate(29 - warm_updates + 20, 1000 + 20)
