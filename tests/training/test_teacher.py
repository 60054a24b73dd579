"""The adaptive teacher: its reward, what it learns by it, when it is asked, and that ranks share it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.basis.space import Space
from molsampler.diffusion.kinds import make_policy, make_process
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.targets.target import Target
from molsampler.training.config import TeacherConfig, TrainConfig
from molsampler.training.learner import Learner
from molsampler.training.teacher import Teacher, teacher_log_reward
from molsampler.training.trainer import FIRST_ROLLOUTS
from tests.ranked import on_ranks
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian
from tests.training.small import CONFIG, SHORT, make, train

SCRATCH = change(
    SHORT,
    start="scratch",
    warm_updates=0,
    updates=24,
    teacher={"every": 2},
    batch={"replay_updates": 1},
    passes={"every": 0},
    moves={"every": 0},
    rollouts={"number": 0},
)
LONG = change(CONFIG, teacher={"every": 2}, optimiser={"rate": 1e-2, "log_z_rate": 5e-2, "residual_limit": 1e6})


def test_the_reward_is_what_it_says():
    """By hand: too rare counts 20 times, nothing to learn is worth the floor and the reward's power."""
    config = TeacherConfig(every=1, emphasis=19.0, power=0.5, floor=1.0)
    residual, log_r = torch.tensor([2.0, -2.0, 0.0]), torch.tensor([-4.0, -4.0, 3.0])
    expected = [math.log(1.0 + 20.0 * 4.0) - 2.0, math.log(1.0 + 4.0) - 2.0, 1.5]
    assert teacher_log_reward(residual, log_r, config).tolist() == pytest.approx(expected)
    plain = teacher_log_reward(residual, log_r, TeacherConfig(every=1, emphasis=0.0, power=0.0, floor=0.01))
    assert plain.tolist() == pytest.approx([math.log(4.01), math.log(4.01), math.log(0.01)])


def teacher_for(target: Target, config: TrainConfig) -> Teacher:
    return Teacher(config, lambda own: Learner(target.space, own))


def taught(teacher: Teacher, student: Any, target: Target, log_z: float, updates: int) -> None:
    """Updates on rollouts of the teacher and of the student in turn."""
    generator = seeded(1)
    for k in range(updates):
        states, _ = rollout(teacher.policy if k % 2 else student, 256, generator)
        t = score_states(student, states, target.log_prob(states[-1]))
        teacher.learn(t, torch.tensor(log_z), teacher.learner.rate(k, updates))


def test_of_a_perfect_student_it_learns_the_tempered_target():
    """The untrained policy is exact on N(0, 1), so that every residual is zero and the reward is R^(1/2): the teacher
    ends at N(0, 2), with log Z = log of the integral of R^(1/2), at 20,000 draws weighed by importance."""
    target = Gaussian(torch.zeros(1), torch.ones(1), 0, 0.6)
    teacher = teacher_for(target, LONG)
    student = make_policy(make_process(target.space, LONG.schedule), LONG.policy, LONG.torsions, seeded(2))
    taught(teacher, student, target, 0.6, 250)
    expected = 0.5 * (0.6 - 0.5 * math.log(2.0 * math.pi)) + 0.5 * math.log(4.0 * math.pi)
    assert teacher.learner.log_z.item() == pytest.approx(expected, abs=0.05)
    states, log_ratio = rollout(teacher.learner.averaged, 20_000, seeded(3))
    log_w = 0.5 * target.log_prob(states[-1]) - log_ratio
    assert_mean((log_w - expected).exp(), 1.0)
    assert float(states[-1].square().mean()) == pytest.approx(2.0, abs=0.25)
    assert float(log_w.std()) < 0.3


class Wells(Target):
    """Equal wells N(-2, 0.4^2) and N(2, 0.4^2) on the line."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Space.of(1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        wells = [torch.distributions.Normal(m, 0.4).log_prob(x[..., 0]) for m in (-2.0, 2.0)]
        return torch.logsumexp(torch.stack(wells), 0) - math.log(2.0)


def test_it_goes_where_the_student_comes_too_rarely():
    """A student that ends left of the middle in more than nine of ten paths: the teacher ends right of it in most."""
    target, config = Wells(), change(LONG, optimiser={"rate": 5e-3})
    student = make_policy(make_process(target.space, config.schedule), config.policy, config.torsions, seeded(2))
    with torch.no_grad():
        student.network.mlp.last_bias[:, 0] -= 1.5
    teacher = teacher_for(target, config)
    taught(teacher, student, target, 0.0, 200)
    right = [
        float((rollout(policy, 4000, seeded(4))[0][-1] > 0.0).double().mean())
        for policy in (student, teacher.learner.averaged)
    ]
    assert right[0] < 0.1 and right[1] > 0.6, right


def test_it_rolls_out_when_its_turn_has_come():
    """Of 24 updates every second is of rollouts, and of these every second the teacher's; all are booked, and enter the
    buffer with the weights of whoever drew them."""
    trainer = make(SCRATCH)
    drew = []
    on_policy = trainer.behaviours.on_policy
    trainer.behaviours.on_policy = lambda n, e=0.0, policy=None: drew.append(policy) or on_policy(n, e, policy)
    train(trainer)
    assert drew == [None, trainer.teacher.policy] * 6
    batch = SCRATCH.batch.balance
    assert trainer.target.counter.by_purpose["rollout"] == FIRST_ROLLOUTS + 12 * batch
    assert len(trainer.behaviours.buffer) == FIRST_ROLLOUTS + 12 * batch
    assert math.isfinite(trainer.teacher.last_loss) and trainer.evaluate()["teacher_loss"] == trainer.teacher.last_loss
    alone = make(change(SCRATCH, teacher={"every": 0}))
    assert alone.teacher is None and math.isnan(train(alone).evaluate()["teacher_loss"])


def test_it_is_no_copy_of_the_student_and_leaves_it_alone():
    """First parameters differ; an update of the teacher moves nothing of the student, nor the other way round."""
    trainer = make(SCRATCH)
    student, teacher = trainer.learner, trainer.teacher
    first, second = student.policy.network.mlp.first.weight, teacher.policy.network.mlp.first.weight
    assert not torch.equal(first, second)
    before, own = student.fingerprint(), teacher.learner.fingerprint()
    states, log_r = trainer.behaviours.on_policy(32)
    teacher.learn(score_states(student.policy, states, log_r), student.log_z, 1.0)
    assert student.fingerprint() == before and teacher.learner.fingerprint() != own
    assert all(p.grad is None for p in student.policy.parameters())


def test_a_batch_that_breaks_is_skipped_and_does_not_begin_it():
    trainer = make(SCRATCH)
    teacher = trainer.teacher
    states, log_r = trainer.behaviours.on_policy(32)
    own = teacher.learner.fingerprint()
    log_r[3] = torch.nan
    teacher.learn(score_states(trainer.learner.policy, states, log_r), trainer.learner.log_z, 1.0)
    assert math.isnan(teacher.last_loss) and not teacher.begun and teacher.learner.fingerprint() == own


def test_an_objective_without_other_rollouts_refuses_it():
    with pytest.raises(InputError, match='^objective = "reverse_kl" trains on rollouts of the policy alone, and teach'):
        change(CONFIG, objective="reverse_kl", teacher={"every": 3}).check()


def together() -> dict[str, Any]:
    """A short run on this rank's share, its teacher told apart and brought together again."""
    trainer = train(make(SCRATCH))
    print_, held = trainer.teacher.learner.fingerprint(), trainer.gathered_state()
    others = [sorted(part) for part in held.get("others", [])]
    with torch.no_grad():
        next(trainer.teacher.policy.parameters()).add_(0.1 * ranks.rank())
    apart = trainer.teacher.learner.fingerprint()
    trainer.agree()
    return {
        "print": print_, "loss": trainer.teacher.last_loss, "others": others,
        "agreed": (apart, trainer.teacher.learner.fingerprint()),
        "rolled": trainer.target.counter.by_purpose["rollout"],
    }  # fmt: skip


def test_ranks_share_one_teacher():
    """Alike to the last bit after a run of two, each with half of every batch; a checkpoint holds it once."""
    first, second = on_ranks(2, together)
    assert first["print"] == second["print"] and first["loss"] == second["loss"]
    assert first["others"] == [["behaviours", "counter", "generator"]]
    assert first["agreed"][1] == second["agreed"][1] == first["agreed"][0] != second["agreed"][0]
    assert first["rolled"] + second["rolled"] == FIRST_ROLLOUTS + 12 * SCRATCH.batch.balance
