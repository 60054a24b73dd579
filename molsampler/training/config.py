"""Everything a run can be told, as frozen dataclasses; the command line and config.toml are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.process import ScheduleConfig
from molsampler.diffusion.twist import TwistConfig
from molsampler.smc.annealed import AnnealConfig
from molsampler.smc.sampler import SMCConfig


@dataclass(frozen=True)
class OptimiserConfig:
    """warm_rate, rate : Adam's learning rates for denoising and for trajectory balance (policy)
    twist_rate, log_z_rate : those of the twist and of log Z
    final : share of a rate that is left at the end of its phase, reached along a cosine
    ramp : updates of linear increase at the start of a phase
    clip : largest norm of the policy's gradient
    residual_limit : residuals of trajectory balance beyond this count linearly, not squared
    ema : decay of the averaged weights that sample
    """

    warm_rate: float = 2e-3
    rate: float = 1e-4
    twist_rate: float = 1e-3
    log_z_rate: float = 1e-2
    final: float = 0.02
    ramp: int = 50
    clip: float = 10.0
    residual_limit: float = 3.0
    ema: float = 0.998


@dataclass(frozen=True)
class BehaviourConfig:
    """Where training states come from once trajectory balance has begun, and how many.

    batch : trajectories an update of trajectory balance; warm_batch : noised states an update of denoising
    replay_updates : replay updates for every on-policy update (0: on-policy only)
    replay : states of replay updates are drawn from the buffer by tempered importance weight, uniformly or by rank of
        log R; "none" keeps no buffer, and takes the particles of a fresh SMC run by tempered weight
    exploration : rollouts are drawn with kernels wider by this share, which falls to 0 over the first half
    smc_every : one SMC run each so many replay updates (0: never); smc_particles : its K
    moves_every : one round of local moves each so many updates (0: never)
    moves_limit : evaluations that local moves may take in a run, whatever its length
    moves : "mala", or "md" where the target offers it; moves_parents, moves_steps : states drawn, steps each
    capacity, gamma : of the replay buffer
    moves_step_range : of MALA, in local moves and prefill, see `mala`
    warm_rollouts, warm_every : so many rollouts enter the buffer every so many updates of denoising (0: none)
    prefill_frames, prefill_steps : frames kept of the prefill's chains and MALA steps between two
    explore_share : share of training states drawn from the annealing's explorers, by weights tempered to an ESS of
        explore_gamma; explore_capacity : how many of those are kept
    """

    batch: int = 256
    warm_batch: int = 4080
    replay_updates: int = 3
    replay: Literal["importance", "uniform", "rank", "none"] = "importance"
    exploration: float = 0.0
    smc_every: int = 2
    smc_particles: int = 256
    moves_every: int = 50
    moves_limit: int = 6_000_000
    moves: Literal["mala", "md"] = "mala"
    moves_parents: int = 2048
    moves_steps: int = 10
    moves_step_range: float = 1.0
    warm_rollouts: int = 0
    warm_every: int = 20
    capacity: int = 120_000
    gamma: float = 0.05
    prefill_frames: int = 16
    prefill_steps: int = 10
    explore_share: float = 0.05
    explore_gamma: float = 0.5
    explore_capacity: int = 30_000


@dataclass(frozen=True)
class TrainConfig:
    """seed : of everything random
    minutes : budget of training time, turned into numbers of updates once, after a warm-up; ignored where both numbers
        of updates are given
    warm_share : share of the budget for denoising
    warm_updates, updates : of denoising and of trajectory balance; 0 lets `minutes` decide
    precision : of the policy network in training; "auto" takes bfloat16 where this processor multiplies it faster
    compile : compile energy and networks (half a minute or so)
    surrogate_cap : log R is bounded, smoothly, this far below `surrogate_margin` below the prefill's lowest per cent
    evaluations : rows in metrics.csv over the run; evaluation_samples : policy samples of each
    checkpoint_seconds : least time between two checkpoints
    """

    seed: int = 0
    objective: Literal["tb", "log_variance", "subtb", "db", "reverse_kl"] = "tb"
    subtb_lambda: float = 0.9
    start: Literal["annealed", "scratch"] = "annealed"
    minutes: float = 15.0
    warm_share: float = 0.75
    warm_updates: int = 0
    updates: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = True
    surrogate_margin: float = 10.0
    surrogate_cap: float = 20.0
    evaluations: int = 60
    evaluation_samples: int = 2048
    checkpoint_seconds: float = 60.0
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    twist: TwistConfig = field(default_factory=TwistConfig)
    smc: SMCConfig = field(default_factory=SMCConfig)
    anneal: AnnealConfig = field(default_factory=AnnealConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
