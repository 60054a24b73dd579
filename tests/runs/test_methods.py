"""Every arm is the same trainer under another configuration: it runs, learns, and draws its states where it says."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from pathlib import Path

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Line, Space
from molsampler.diffusion.kinds import make_policy
from molsampler.diffusion.policy import PolicyConfig
from molsampler.runs.methods import ARMS, apply_arm
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets.target import Target
from molsampler.training.buffer import ReplayBuffer
from molsampler.training.trainer import Trainer
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import TwoWells
from tests.training.test_trainer import CONFIG, SHORT, assert_same, make, train

LEARNING = [name for name, arm in ARMS.items() if arm.baseline is None]
FROM_SCRATCH = [name for name in LEARNING if apply_arm(name, CONFIG).start == "scratch"]


class Wells(Target):
    """0.6 N(-1.4, 0.35^2) + 0.4 N(1.2, 0.5^2) on the line, which the pinned process can sample too; log Z = 0.8."""

    log_z = 0.8

    def __init__(self) -> None:
        super().__init__()
        self.space = Space.of(1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        wells = [
            math.log(share) + torch.distributions.Normal(mean, std).log_prob(x[..., 0])
            for share, mean, std in ((0.6, -1.4, 0.35), (0.4, 1.2, 0.5))
        ]
        return 0.8 + torch.logsumexp(torch.stack(wells), 0)


def prepared(name: str, config=SHORT, seed: int = 0) -> Trainer:
    config = apply_arm(name, dataclasses.replace(config, seed=seed))
    config = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, rate=1e-2, twist_rate=1e-2))
    target = Wells()
    trainer = Trainer(target, config, seeded(seed))
    found = None
    if config.start == "annealed":
        found = annealed_smc(target.log_prob_and_score, target.space, config.anneal, trainer.generator)
    trainer.begin(found)
    return trainer


@pytest.mark.parametrize("name", LEARNING)
def test_an_arm_runs_resumes_and_repeats(name):
    """A few updates through a checkpoint in the middle end bit for bit where they end without one."""
    trainer = train(prepared(name), 5)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    loaded = Trainer(Wells(), trainer.config, torch.Generator())
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (trainer, loaded):
        train(other)
    assert_same(trainer.state_dict(), loaded.state_dict())
    row = trainer.evaluate()
    assert not trainer.learner.skipped and math.isfinite(row["elbo"]) and 0.0 < row["ess"] <= 1.0
    assert row["evaluations_guidance"] > 0 if trainer.config.policy.langevin else row["evaluations_guidance"] == 0


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_an_arm_learns(name):
    """From the untrained policy the ELBO rises; arms that cannot forget a mode raise the ESS too, and their learnt log
    Z comes near the truth. No annealing is booked."""
    config = dataclasses.replace(CONFIG, warm_updates=0, updates=120)
    trainer = prepared(name, config)
    before = trainer.evaluate()
    train(trainer)
    after = trainer.evaluate()
    assert after["elbo"] > before["elbo"] + 0.2 and math.isfinite(after["log_z"])
    if name in ("tb+iw", "tb+smc", "tb+smc+iw"):  # the arms that cannot forget a mode
        assert after["ess"] > before["ess"] + 0.1 and after["log_z"] == pytest.approx(0.8, abs=0.4)
    assert after["evaluations_prefill"] == 0 and after["phase"] != "denoising"
    assert (after["smc_runs"] > 0) == (trainer.config.passes.every > 0)


def test_states_come_from_where_the_arm_says():
    counts = {}
    for name in ("tb", "tb+uniform", "tb+smc", "tb+smc+iw", "tb+local-search"):
        config = dataclasses.replace(SHORT, warm_updates=0, updates=60 if name == "tb+local-search" else 40)
        trainer = prepared(name, config)
        train(trainer)
        counts[name] = dict(trainer.target.counter.by_purpose)
    first, batch = 4096, SHORT.batch.balance
    assert counts["tb"] == {"rollout": first + 40 * batch}  # every update rolls out
    assert counts["tb+uniform"] == {"rollout": first + 10 * batch}  # every fourth
    assert counts["tb+smc"]["smc"] == 30 * SHORT.passes.particles
    assert counts["tb+smc+iw"]["smc"] == 15 * SHORT.passes.particles
    one_round = SHORT.moves.parents * SHORT.moves.steps
    assert counts["tb+local-search"]["local_moves"] == one_round  # of 60 updates the fiftieth has one


def test_fresh_particles_are_those_of_the_last_run():
    config = dataclasses.replace(SHORT, warm_updates=0, updates=12)
    trainer = prepared("tb+smc", config)
    train(trainer)
    fresh = trainer.behaviours.fresh
    assert 0 < len(fresh) <= config.passes.particles
    buffer = trainer.behaviours.buffer
    held = buffer.x[: len(buffer)]
    assert not bool((held[:, None] == fresh.x[None, :1]).all(-1).any())


def test_a_pass_without_any_weight_counts_in_the_running_log_z(monkeypatch):
    """Its estimate of Z is 0, and leaving it out would raise the mean of the others; the buffer does not want it."""
    trainer = prepared("tb+smc+iw", dataclasses.replace(SHORT, warm_updates=0, updates=12))
    behaviours = trainer.behaviours
    before, held, particles = behaviours.log_z.value, len(behaviours.buffer), SHORT.passes.particles
    weighed = behaviours.log_z.particles
    with monkeypatch.context() as patch:
        patch.setattr(trainer.target, "log_prob_and_score", lambda x: (torch.full_like(x[:, 0], -torch.inf), 0.0 * x))
        behaviours.smc()
    share = behaviours.log_z.discount * weighed / (behaviours.log_z.discount * weighed + particles)
    assert behaviours.log_z.value == pytest.approx(before + math.log(share)) and share < 1.0
    assert behaviours.report.collapsed == 1 and len(behaviours.buffer) == held


def test_exploration_ends_after_the_first_half(monkeypatch):
    trainer = prepared("tb+exploration", dataclasses.replace(SHORT, warm_updates=0, updates=8))
    seen = []
    draw = trainer.behaviours.on_policy
    monkeypatch.setattr(trainer.behaviours, "on_policy", lambda n, width=0.0: (seen.append(width), draw(n, width))[1])
    train(trainer)
    assert seen == pytest.approx([0.3, 0.225, 0.15, 0.075, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(("priority", "expected"), [("uniform", [0.25] * 4), ("rank", None)])
def test_priorities_draw_as_they_say(priority, expected):
    buffer = ReplayBuffer(4, 1, gamma=0.05, priority=priority)
    log_r = torch.tensor([0.0, 3.0, -50.0, 1.0])
    buffer.add(torch.arange(4.0)[:, None], log_r, torch.zeros(4, 1), torch.tensor([0.0, -300.0, 0.0, 9.0]))
    if priority == "rank":  # ranks 2, 0, 3, 1 of log R
        share = 1.0 / (0.04 + torch.tensor([2.0, 0.0, 3.0, 1.0]).double())
        expected = (share / share.sum()).tolist()
    drawn = buffer.draw(20_000, seeded(0))
    counts = torch.bincount(drawn.x[:, 0].long(), minlength=4).double() / 20_000
    for found, p in zip(counts.tolist(), expected, strict=True):
        assert abs(found - p) < 4.5 * math.sqrt(p * (1 - p) / 20_000)
    assert drawn.log_a[0].exp().item() == pytest.approx(expected[int(drawn.x[0, 0])])


def test_langevin_guides_by_the_bounded_score():
    config = dataclasses.replace(SHORT, policy=PolicyConfig(16, 2, langevin=True, score_limit=2.0))
    trainer = make(config)
    policy = trainer.learner.policy
    x = trainer.target.sample(seeded(0), 6).float()
    plain = policy.drift_and_log_var(x, 2)[0]
    with torch.no_grad():
        policy.gate.fill_(0.5)
    guided = policy.drift_and_log_var(x, 2)[0]
    score = trainer.target.log_prob_and_score(x)[1]
    score[:, : trainer.target.space.count(Line)] += x[:, : trainer.target.space.count(Line)]
    limit = 2.0 / policy.process.forward_log_var[2].exp().sqrt()
    expected = 0.5 * limit * torch.tanh(score / limit)
    assert float((score / limit).abs().max()) > 0.5
    torch.testing.assert_close(guided - plain, expected)
    with pytest.raises(ValueError, match="needs the target's score"):
        make_policy(policy.process, config.policy, config.torsions, seeded(0))


def test_a_start_from_scratch_off_the_support_is_refused():
    class Nowhere(TwoWells):
        def log_prob(self, x):
            return torch.full_like(x[..., 0], -torch.inf) + 0.0 * x.sum(-1)

    trainer = Trainer(Nowhere(), dataclasses.replace(SHORT, start="scratch"), seeded(0))
    with pytest.raises(InputError, match="untrained policy"):
        trainer.begin(None)


def test_budgets_in_updates_are_shared_out_by_cost():
    config = dataclasses.replace(CONFIG, warm_updates=300, updates=50)
    scratch, denoising = apply_arm("tb", config), apply_arm("denoising-only", config)
    assert (scratch.warm_updates, scratch.updates) == (0, 150)
    assert (denoising.warm_updates, denoising.updates) == (450, 0)
    minutes = apply_arm("tb", dataclasses.replace(config, warm_updates=None, updates=None, minutes=2.0))
    assert (minutes.warm_updates, minutes.updates, minutes.minutes) == (0, None, 2.0)


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.baseline is not None])
def test_a_classical_arm_runs(name):
    """log Z = 0.8 by the mean weight of 24 independent runs, within 4.5 standard errors."""
    target, generator = Wells(), seeded(0)
    anneal = dataclasses.replace(CONFIG.anneal, kernel=ARMS[name].baseline)
    found = [
        annealed_smc(target.log_prob_and_score, target.space, anneal, generator, explore=False).log_z for _ in range(24)
    ]
    assert_mean((torch.tensor(found) - 0.8).exp(), 1.0)


def test_every_arm_has_its_place_in_the_docs():
    """Each name stands between backticks in docs/METHODS.md, before the table of costs; and no other does that looks
    like an arm of these families."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "METHODS.md").read_text(encoding="utf-8")
    prose = text.split("## What an update costs")[0]
    named = set(re.findall(r"`([a-z0-9.+-]+)`", prose))
    assert set(ARMS) <= named, set(ARMS) - named
    assert {n for n in named if re.match(r"(tb|teacher|learnt|twist|smc|gamma)[+-]|tb$", n)} <= set(ARMS)


def test_unknown_arms_are_named():
    with pytest.raises(InputError, match="'tb\\+magic'.*tb\\+smc\\+iw"):
        apply_arm("tb+magic", CONFIG)
    assert AnnealConfig().kernel in {arm.baseline for arm in ARMS.values()}
