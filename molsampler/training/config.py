"""Everything that training can be told, as frozen dataclasses, one a table of config.toml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import LARGEST_SEED, POSITIVE, change, setting, table
from molsampler.basis.space import Space
from molsampler.diffusion.learnt_noising import NoisingConfig
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.process import ScheduleConfig
from molsampler.diffusion.torsions import TorsionConfig
from molsampler.diffusion.twist import TwistConfig
from molsampler.smc.annealed import AnnealConfig
from molsampler.smc.sampler import SMCConfig

_ANNEALED = {"train.start": "annealed"}
BY_TRAJECTORY = ("tb", "log_variance")
"""Objectives by whole trajectories, whose loss trains the policy and leaves the twist to its own."""


@dataclass(frozen=True)
class OptimiserConfig:
    """Learning rates, with averaged weights for sampling."""

    method: Literal["adam", "soap"] = setting(
        "adam", "of the policy: Adam, or Adam in the eigenbasis of Shampoo's preconditioner (SOAP); the twist has Adam"
    )
    warm_rate: float = setting(2e-3, "learning rate of the policy in denoising", above=0.0)
    mixture_rate: float = setting(
        2e-3,
        "learning rate of the torsions' mixtures in denoising, always by Adam; in balance it keeps its proportion, or "
        "is `rate` itself where they are balanced alone",
        above=0.0,
        needs={"train.schedule.torsions": "first"},
    )
    rate: float = setting(
        1e-4, "learning rate of what balance trains of the policy; a diffusion denoised meanwhile keeps `warm_rate`",
        above=0.0,
    )  # fmt: skip
    twist_rate: float = setting(1e-3, "learning rate of the twist", above=0.0)
    log_z_rate: float = setting(1e-2, "learning rate of log Z", above=0.0)
    final: float = setting(
        0.02, "share of a rate that is left at the end of its phase, reached along a cosine", low=0.0, high=1.0
    )
    ramp: int = setting(50, "updates of linear increase at the start of a phase", low=1)
    clip: float = setting(10.0, "largest norm of a gradient", above=0.0)
    residual_limit: float = setting(
        3.0, "residuals of balance beyond this count linearly, not squared", above=0.0,
        needs={"train.objective": BY_TRAJECTORY},
    )  # fmt: skip
    ema: float = setting(0.998, "decay of the averaged weights, which sample", low=0.0, below=1.0)


@dataclass(frozen=True)
class BatchConfig:
    """How many states an update trains on, and where those of balance come from."""

    denoising: int = setting(4080, "states an update of denoising, shared among the steps of diffusion", low=1)
    balance: int = setting(256, "trajectories an update of balance", low=1)
    per_condition: int = setting(
        1,
        "rollouts in a row that share a condition, where the target has conditions; log-variance compares them",
        low=1,
    )
    replay_updates: int = setting(3, "replay updates for every on-policy update; 0 for on-policy only", low=0)
    exploration: float = setting(
        0.0,
        "on-policy rollouts are drawn with kernels wider by this share, which falls to 0 over the first half",
        low=0.0,
    )


@dataclass(frozen=True)
class ReplayConfig:
    """The replay buffer."""

    draw: Literal["importance", "uniform", "rank", "none"] = setting(
        "importance",
        "states are drawn by tempered importance weight, uniformly, or by rank of log R; none keeps no buffer and "
        "takes the particles of a fresh SMC pass by tempered weight",
    )
    capacity: int = setting(120_000, "states kept", low=1)
    symmetries: bool = setting(
        True, "drawn states are put under a random symmetry that the target knows of: like atoms of a methyl turned"
    )
    gamma: float = setting(
        0.05, "weights are tempered to an ESS of this share", low=0.0, high=1.0, needs={"draw": ("importance", "none")}
    )


@dataclass(frozen=True)
class PassConfig:
    """Passes of sequential Monte Carlo in training; their particles enter the replay buffer."""

    every: int = setting(2, "one pass each so many replay updates; 0 for none", low=0)
    particles: int = setting(256, "particles of a pass", low=1, needs={"every": POSITIVE})


@dataclass(frozen=True)
class MovesConfig:
    """Local moves from replayed states, whose ends enter the replay buffer."""

    every: int = setting(50, "one round each so many updates, while the limit allows it; 0 for none", low=0)
    kind: Literal["mala", "md"] = setting(
        "mala", "MALA, or the target's own dynamics where it has them", needs={"every": POSITIVE}
    )
    parents: int = setting(2048, "states drawn for a round", low=1, needs={"every": POSITIVE})
    steps: int = setting(10, "steps from each", low=1, needs={"every": POSITIVE})
    step_range: float = setting(
        1.0,
        "MALA's steps vary log-uniformly over this factor, in local moves and prefill",
        low=1.0,
        needs={"kind": "mala"},
    )
    limit: int = setting(
        12_000_000,
        "evaluations that local moves may take in a run, whatever its length; by a share t of the updates, sqrt(t) of "
        "them",
        low=0,
        needs={"every": POSITIVE},
    )


@dataclass(frozen=True)
class RolloutConfig:
    """Weighted rollouts of the averaged policy that enter the replay buffer during denoising, and correct there what
    annealing got wrong."""

    number: int = setting(2048, "rollouts at a time; 0 for none", low=0)
    every: int = setting(80, "updates of denoising between two of them", low=1, needs={"number": POSITIVE})


@dataclass(frozen=True)
class TeacherConfig:
    """An adaptive teacher: a second policy that goes where the first one's loss is large. Its reward is
    log (floor + (1 + emphasis [log w > log Z]) (log w - log Z)^2) + power log R."""

    every: int = setting(
        0, "of every so many batches of rollouts the last one is the teacher's; 0 for no teacher", low=0
    )
    emphasis: float = setting(
        19.0, "how much more residuals count where the policy comes too rarely", low=0.0, needs={"every": POSITIVE}
    )
    power: float = setting(0.5, "of R in the teacher's reward", low=0.0, needs={"every": POSITIVE})
    floor: float = setting(1.0, "what a residual of zero is worth", above=0.0, needs={"every": POSITIVE})


@dataclass(frozen=True)
class PrefillConfig:
    """MALA chains from the annealed states that fill the buffer before training."""

    frames: int = setting(16, "frames kept of every chain", low=1, needs=_ANNEALED)
    steps: int = setting(10, "MALA steps between two frames", low=1, needs=_ANNEALED)


@dataclass(frozen=True)
class ExplorerConfig:
    """Annealed states that were never resampled: they keep rare basins in training."""

    share: float = setting(0.05, "share of the training states drawn from them", low=0.0, below=1.0, needs=_ANNEALED)
    gamma: float = setting(
        0.5, "their weights are tempered to an ESS of this share", low=0.0, high=1.0, needs={"share": POSITIVE}
    )
    capacity: int = setting(30_000, "how many are kept", low=1, needs={"share": POSITIVE})


@dataclass(frozen=True)
class TrainConfig:
    """Training: what is minimised, for how long, and all that its parts are told."""

    seed: int = setting(0, "of everything random", low=0, high=LARGEST_SEED)
    objective: Literal["tb", "log_variance", "subtb", "db", "reverse_kl"] = setting(
        "tb", "after denoising: trajectory balance, log-variance, SubTB(lambda), detailed balance or reverse KL"
    )
    balanced: Literal["all", "torsions"] = setting(
        "all",
        "what the objective trains: the whole policy, or the torsions' mixtures alone, while the diffusion goes on by "
        "denoising, whose gradients are far less noisy",
        needs={"objective": BY_TRAJECTORY, "train.schedule.torsions": "first"},
    )
    twist_loss: Literal["subtb", "optimal", "contrastive"] = setting(
        "subtb",
        "what trains the twist: SubTB over chunks and tails, regression on the optimal twist, or contrast of replayed "
        "states with rollouts",
        needs={"objective": BY_TRAJECTORY},
    )
    subtb_lambda: float = setting(0.9, "lambda of SubTB", low=0.0, high=1.0, needs={"objective": "subtb"})
    start: Literal["annealed", "scratch"] = setting(
        "annealed", "from states annealed from the prior, or from the untrained policy"
    )
    minutes: float = setting(
        15.0, "budget of training time; turned into numbers of updates once, after a warm-up, where they are not given",
        unit="min", above=0.0,
    )  # fmt: skip
    warm_share: float = setting(0.75, "share of the budget for denoising", low=0.0, high=1.0, needs=_ANNEALED)
    warm_least: int = setting(
        0,
        "least number of updates of denoising where the budget decides, but no more than fit into half of it; where "
        "`updates` is given, `warm_share` alone counts",
        low=0,
        needs=_ANNEALED,
    )
    warm_updates: int | None = setting(None, "updates of denoising; left out, `minutes` decides", low=0)
    updates: int | None = setting(None, "updates of the objective; left out, `minutes` decides", low=0)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of the policy network in training; auto takes bfloat16 where this processor multiplies it faster"
    )
    compile: bool = setting(True, "compile energy and networks (half a minute or so)")
    surrogate_margin: float = setting(
        10.0, "log R is bounded, smoothly, from so far below the prefill's lowest per cent on", low=0.0, unit="nat"
    )
    surrogate_cap: float = setting(20.0, "and at most by so much more", above=0.0, unit="nat")
    evaluations: int = setting(60, "rows of metrics.csv over the run", low=1)
    evaluation_samples: int = setting(2048, "policy samples behind each row", low=2)
    checkpoint_seconds: float = setting(60.0, "least time between two checkpoints", low=0.0, unit="s")
    schedule: ScheduleConfig = table(ScheduleConfig, "how noise is spread over the steps")
    noising: NoisingConfig = table(NoisingConfig, "what is learnt of the noising process")
    policy: PolicyConfig = table(PolicyConfig, "the policy and its network")
    torsions: TorsionConfig = table(TorsionConfig, "soft torsions drawn first, one a step, each from a mixture")
    twist: TwistConfig = table(TwistConfig, "the twist and its network")
    smc: SMCConfig = table(SMCConfig, "sequential Monte Carlo, in training and in sampling")
    anneal: AnnealConfig = table(AnnealConfig, "annealed SMC from the prior, before training")
    optimiser: OptimiserConfig = table(OptimiserConfig, "learning rates and averages")
    batch: BatchConfig = table(BatchConfig, "sizes of updates")
    replay: ReplayConfig = table(ReplayConfig, "the replay buffer")
    passes: PassConfig = table(PassConfig, "SMC passes in training")
    moves: MovesConfig = table(MovesConfig, "local moves from replayed states")
    rollouts: RolloutConfig = table(RolloutConfig, "weighted rollouts during denoising")
    teacher: TeacherConfig = table(TeacherConfig, "an adaptive teacher")
    prefill: PrefillConfig = table(PrefillConfig, "chains that fill the buffer before training")
    explorers: ExplorerConfig = table(ExplorerConfig, "annealed states that were never resampled")

    def check(self, space: Space | None = None) -> None:
        """InputError where settings that are good by themselves do not go together, or not with the target's space."""
        chunk, n_steps = self.smc.chunk, self.schedule.n_steps
        if n_steps % chunk:
            raise InputError(f"the SMC chunk of {chunk} steps does not divide the {n_steps} steps: change one of them")
        if self.schedule.torsions == "first" and self.objective == "reverse_kl":
            raise InputError(
                'schedule.torsions = "first" draws from mixtures, through which objective = "reverse_kl" cannot '
                'differentiate: use "joint", or another objective'
            )
        if self.noising.learnt != "nothing" and self.balanced == "torsions" and self.objective in BY_TRAJECTORY:
            raise InputError(
                f'noising.learnt = "{self.noising.learnt}" does not go with balanced = "torsions", whose diffusion is '
                'denoised by the fixed process: use balanced = "all", or "nothing"'
            )
        self._check_teacher_and_twist()
        if self.smc.moves and self.twist.partial_energy:
            raise InputError(
                f"smc.moves = {self.smc.moves} needs the twist's gradient, and twist.partial_energy = true puts the "
                "energy into it: leave one of them out"
            )
        if self.smc.moves and self.schedule.torsions == "first":
            raise InputError(
                f"smc.moves = {self.smc.moves} would move angles that are not drawn yet: use schedule.torsions = "
                '"joint", or smc.moves = 0'
            )
        if space is not None and space.conditional:
            self._check_conditional()
        if self.warm_updates == 0 and self.updates == 0:
            raise InputError("warm_updates = 0 and updates = 0 train nothing: give a number, or leave one to `minutes`")

    def _check_conditional(self) -> None:
        """What compares weights of different conditions, each with a Z(c) of its own, has no meaning."""
        several = "of a target with conditions"
        if self.twist_loss == "contrastive":
            raise InputError(
                f'twist_loss = "contrastive" normalises weights over a batch {several}, each with a Z of its own: use '
                '"subtb" or "optimal"'
            )
        if self.objective != "log_variance":
            return
        if self.batch.replay_updates:
            raise InputError(
                f'objective = "log_variance" compares trajectories of one condition {several}, and batch.replay_updates'
                f" = {self.batch.replay_updates} brings states of many: use 0, or another objective"
            )
        alike, batch = self.batch.per_condition, self.batch.balance
        own = ranks.share(batch)
        if alike < 2 or own % alike:
            share = "" if own == batch else f"{own}, a process's share of "
            raise InputError(
                f'objective = "log_variance" needs several trajectories of each condition {several}: give '
                f"batch.per_condition a number from 2 on that divides {share}batch.balance = {batch}, not {alike}"
            )

    def _check_teacher_and_twist(self) -> None:
        if self.teacher.every and self.objective == "reverse_kl":
            raise InputError(
                'objective = "reverse_kl" trains on rollouts of the policy alone, and teacher.every = '
                f"{self.teacher.every} gives others: use another objective, or 0"
            )
        if self.twist_loss == "subtb" or self.objective not in BY_TRAJECTORY:
            return
        if self.teacher.every or self.batch.exploration:
            raise InputError(
                f'twist_loss = "{self.twist_loss}" needs rollouts of the policy as it is, and teacher.every = '
                f"{self.teacher.every} or batch.exploration = {self.batch.exploration:g} gives others: set both to 0, "
                'or use "subtb"'
            )
        if self.replay.draw not in ("importance", "none"):
            raise InputError(
                f'twist_loss = "{self.twist_loss}" needs replayed states of the target, which replay.draw = '
                f'"{self.replay.draw}" does not give: use "importance", or twist_loss = "subtb"'
            )


def per_rank(config: TrainConfig) -> TrainConfig:
    """The configuration with every size that is divided over ranks at one rank's share: what a rank draws, moves, walks
    and keeps. What is left as it is counts for all of them together."""
    return change(
        config,
        anneal={"particles": ranks.share(config.anneal.particles)},
        batch={"denoising": ranks.share(config.batch.denoising), "balance": ranks.share(config.batch.balance)},
        torsions={"states": ranks.share(config.torsions.states)},
        replay={"capacity": ranks.share(config.replay.capacity)},
        passes={"particles": ranks.share(config.passes.particles)},
        moves={"parents": ranks.share(config.moves.parents)},
        rollouts={"number": ranks.share(config.rollouts.number)},
        explorers={"capacity": ranks.share(config.explorers.capacity)},
    )
