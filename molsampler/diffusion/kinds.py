"""Which process and policy a configuration means: the kinds of steps that a trajectory is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.space import Circle, Line, Space
from molsampler.diffusion.chain import PolicyChain, ProcessChain
from molsampler.diffusion.learnt_noising import LearntNoising, NoisingConfig
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import Constant, DiffusionPolicy, Policy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, Process
from molsampler.diffusion.torsions import Reveal, TorsionConfig, TorsionPolicy


def make_process(space: Space, config: ScheduleConfig, noising: NoisingConfig | None = None, seed: int = 0) -> Process:
    """The process of a schedule on a space: joint diffusion, or angles taken one by one after the line has diffused.

    noising : what of the diffusion is learnt, nothing where left out; seed : of its first parameters
    """
    own = {kind: rows for part, rows in space.columns() for kind in (Line, Circle) if isinstance(part, kind)}
    if config.torsions == "joint" or Circle not in own:
        return _diffusion(space, config, noising, seed)
    links: list[tuple[Process, slice]] = [(Reveal(space.only(Circle)), own[Circle])]
    if Line in own:
        links.append((_diffusion(space.only(Line), config, noising, seed), own[Line]))
    return ProcessChain(space, links)


def _diffusion(space: Space, config: ScheduleConfig, noising: NoisingConfig | None, seed: int) -> NoisingProcess:
    if noising is None or noising.learnt == "nothing":
        return NoisingProcess(space, config)
    return LearntNoising(space, config, noising, torch.Generator().manual_seed(seed))


def make_policy(
    process: Process,
    config: PolicyConfig,
    torsions: TorsionConfig,
    generator: torch.Generator,
    score: Callable[[Tensor], Tensor] | None = None,
) -> Policy:
    """The policy for a process; `generator` draws its first parameters, `score` is for the Langevin parametrisation."""
    if not isinstance(process, ProcessChain):
        return DiffusionPolicy(process, config, generator, score)
    policies: list[Policy] = []
    for link in process.links:
        if isinstance(link.process, Reveal):
            policies.append(TorsionPolicy(link.process, torsions, generator, link.own))
        else:
            seen = {"seen": process.space, "own": link.own}
            policies.append(DiffusionPolicy(link.process, config, generator, score, **seen))
    return PolicyChain(process, policies)


def apart(policy: Policy) -> tuple[Policy, list[Policy]]:
    """A view of the policy whose diffusions are constant, so that an objective trains its torsions alone, and those
    diffusions; of a policy that is all diffusion, itself and none."""
    if not isinstance(policy, PolicyChain):
        return policy, []
    diffusions = [view for view in policy.views if isinstance(view, DiffusionPolicy)]
    return policy.seen_as(lambda view: Constant(view) if isinstance(view, DiffusionPolicy) else view), diffusions
