"""A trained sampler as one noun: process, averaged policy, twist and log Z, with the target that they were trained on.

It draws, weighs and answers for its twist; it needs no optimiser and no replay buffer, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.process import Process
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.diffusion.twist import Twist
from molsampler.smc.sampler import SMCConfig, SMCPass

CHUNK = 2048
SMC_PASSES = 64
"""Least number of independent passes, whose scatter gives the ESS of SMC (DESIGN: ESS)."""


@dataclass(frozen=True)
class Drawn:
    """Samples before their final energies are known.

    x : (n, D) states; log_r : (n,) log R as the sampler saw it; log_ratio : (n,) float64, log R minus the log-weight,
    so that a rescored log R' gives the log-weight log R' - log_ratio
    group : (n,) SMC pass of each sample, or None; distinct_ancestors : (passes,) of each pass, or None
    """

    x: Tensor
    log_r: Tensor
    log_ratio: Tensor
    group: Tensor | None = None
    distinct_ancestors: Tensor | None = None

    def gathered(self) -> Drawn:
        """The samples of all ranks, in their order (collective)."""
        return Drawn(*(None if part is None else ranks.gathered(part) for part in vars(self).values()))

    @property
    def log_w(self) -> Tensor:
        """(n,) float64, -inf off the support."""
        return torch.where(self.log_r > -torch.inf, self.log_r.double() - self.log_ratio, -torch.inf)


@dataclass(frozen=True)
class TrainedSampler:
    """policy : with the averaged parameters; twist : log F_n; log_z : the learnt log Z, a scalar
    log_prob : log R, (B, D) -> (B,), -inf off the support; bounded : log R -> the finite surrogate in the twist
    smc_config : chunks and resampling; twist_trained : False where nothing has trained the twist
    emulator : a cheap log R, finite everywhere, that chooses among proposals in SMC
    """

    policy: Policy
    twist: Twist
    log_z: Tensor
    log_prob: Callable[[Tensor], Tensor]
    bounded: Callable[[Tensor], Tensor]
    smc_config: SMCConfig
    twist_trained: bool = True
    emulator: Callable[[Tensor], Tensor] | None = None

    @property
    def process(self) -> Process:
        return self.policy.process

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        on_chunk: Callable[[int], None] = lambda done: None,
        given: Tensor | None = None,
    ) -> Drawn:
        """n independent rollouts of the policy with importance weights; of these this rank's portion (`gathered`).

        given : (n, K) the condition of each, where the target has conditions; weights are then those of its own Z(c)
        Raises InputError where such a target is to be drawn from and no condition is given.
        """
        if self.process.space.conditional and given is None:
            raise InputError("this sampler is of densities that depend on a condition: say for which, a row a sample")
        portion = ranks.portion(n)
        parts, own = [], len(portion)
        if given is not None:
            given = given[portion.start : portion.stop]
        for start in range(0, max(own, 1), CHUNK):
            size = min(CHUNK, own - start)
            states, log_ratio = rollout(
                self.policy, size, generator, given=None if given is None else given[start : start + size]
            )
            with torch.no_grad():
                parts.append((states[-1], self.log_prob(states[-1]), log_ratio.double()))
            on_chunk(size)
        return Drawn(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def smc(self, n: int, generator: torch.Generator, on_chunk: Callable[[int], None] = lambda done: None) -> Drawn:
        """n particles from at least SMC_PASSES independent passes of equal size (n is rounded up); of these passes
        this rank's portion (`gathered`).

        Raises InputError where the twist is untrained, or the target has conditions.
        """
        self._of_one_density()
        if not self.twist_trained:
            raise InputError(
                "the twist of this run was not trained (its objective is reverse_kl), so that sequential Monte Carlo "
                "has no intermediate targets: sample with sampler = policy"
            )
        passes = max(SMC_PASSES, ranks.size())
        size = -(-n // passes)
        config = replace(self.smc_config, emphasis=0.0)  # where the loss is large matters to training alone
        parts, ancestors = [], []
        for k in ranks.portion(passes):
            one = SMCPass(self.policy, self.log_twist, self.log_prob, size, config, generator, self.emulator)
            particles, info = one.run()
            log_r = particles.log_r
            log_ratio = torch.where(log_r > -torch.inf, log_r.double() - particles.log_w, 0.0)
            parts.append((particles.x, log_r, log_ratio, torch.full((size,), k)))
            ancestors.append(info.distinct_ancestors)
            on_chunk(size)
        return Drawn(*(torch.cat(part) for part in zip(*parts, strict=True)), torch.tensor(ancestors))

    @torch.no_grad()
    def path_log_weights(self, x: Tensor, log_r: Tensor, generator: torch.Generator) -> Tensor:
        """log w (B,) of trajectories noised from states x (B, D) with log R (B,); over R / Z their mean is the EUBO."""
        return score_states(self.policy, self.process.sample_path(x, generator), log_r).log_weights()

    def log_twist(self, x: Tensor, n: int) -> Tensor:
        """log F_n(x), (B,), of states x (B, D) at step 0 < n < N, with a graph where x has one and the twist holds no
        energy; InputError where the target has conditions."""
        self._of_one_density()
        with self.twist.graph(x):
            log_r = self.bounded(self.log_prob(x)) if self.twist.needs_energy else None
            return self.twist(x, n, self.log_z, log_r)

    def _of_one_density(self) -> None:
        if self.process.space.conditional:
            raise InputError(
                "twist and sequential Monte Carlo are for one density, and resampling would favour some conditions: "
                "draw from the policy"
            )


def check_samples(n: int, sampler: str) -> None:
    """InputError where n samples are too few for the sampler, or it is none of "policy" and "smc"."""
    if sampler not in ("policy", "smc"):
        raise InputError(f"unknown sampler {sampler!r}; choose 'policy' or 'smc'")
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise InputError(f"{n!r} is no number of samples: give a whole number")
    if n < 1:
        raise InputError(f"{n} samples were asked for: ask for at least 1")
    if sampler == "smc" and n < 2 * SMC_PASSES:
        raise InputError(
            f"{n} samples are too few for SMC: ask for at least {2 * SMC_PASSES}, {SMC_PASSES} passes of 2 particles"
        )
