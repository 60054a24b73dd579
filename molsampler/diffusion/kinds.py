"""Which process and policy a configuration means: the kinds of steps that a trajectory is made of."""

from __future__ import annotations

from typing import Any

import torch

from molsampler.basis.space import Circle, Condition, Label, Line, Space
from molsampler.diffusion.chain import Link, PolicyChain, ProcessChain
from molsampler.diffusion.conditions import Given
from molsampler.diffusion.guidance import ScoreFunction
from molsampler.diffusion.learnt_noising import LearntNoising, NoisingConfig
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import Constant, DiffusionPolicy, Policy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, Process
from molsampler.diffusion.torsions import LabelPolicy, Reveal, TorsionConfig, TorsionPolicy


def make_process(space: Space, config: ScheduleConfig, noising: NoisingConfig | None = None, seed: int = 0) -> Process:
    """The process of a schedule on a space: joint diffusion, or angles taken one by one after the line has diffused. A
    label is drawn before all else and taken away last; a condition stays.

    noising : what of the diffusion is learnt, nothing where left out; seed : of its first parameters
    """
    own = {type(part): rows for part, rows in space.columns()}
    links: list[tuple[Process, slice]] = [(Reveal(space.only(Label)), own[Label])] if Label in own else []
    given = [(Given(space.only(Condition)), own[Condition])] if Condition in own else []
    if config.torsions == "joint" or Circle not in own:
        if not links and not given:
            return _diffusion(space, config, noising, seed)
        rest = space.only(Line, Circle)
        return ProcessChain(space, [*links, (_diffusion(rest, config, noising, seed), slice(0, rest.dim)), *given])
    links.append((Reveal(space.only(Circle)), own[Circle]))
    if Line in own:
        links.append((_diffusion(space.only(Line), config, noising, seed), own[Line]))
    return ProcessChain(space, [*links, *given])


def _diffusion(space: Space, config: ScheduleConfig, noising: NoisingConfig | None, seed: int) -> NoisingProcess:
    if noising is None or noising.learnt == "nothing":
        return NoisingProcess(space, config)
    return LearntNoising(space, config, noising, torch.Generator().manual_seed(seed))


def make_policy(
    process: Process,
    config: PolicyConfig,
    torsions: TorsionConfig,
    generator: torch.Generator,
    score: ScoreFunction | None = None,
    guide: ScoreFunction | None = None,
) -> Policy:
    """The policy for a process; `generator` draws its first parameters, `score` is for the Langevin parametrisation,
    `guide` the score of the target's stand-in."""
    if not isinstance(process, ProcessChain):
        return DiffusionPolicy(process, config, generator, score, guide=guide)
    policies: list[Policy] = []
    besides = _besides(process.space)
    for link in process.links:
        if isinstance(link.process, Given):
            continue
        if _draws_label(link):
            policies.append(LabelPolicy(link.process, link.own))
        elif isinstance(link.process, Reveal):
            policies.append(TorsionPolicy(link.process, torsions, generator, link.own, **besides))
        else:
            seen = {"seen": process.space, "own": link.own}
            policies.append(DiffusionPolicy(link.process, config, generator, score, guide=guide, **seen))
    return PolicyChain(process, policies)


def _besides(space: Space) -> dict[str, Any]:
    """What angles depend on besides those before them: label and condition, and their columns, which are the last."""
    seen = space.only(Label, Condition)
    return {"besides": seen, "given": slice(space.dim - seen.dim, space.dim)} if seen.dim else {}


def _draws_label(link: Link) -> bool:
    return link.process.space.count(Label) > 0


def apart(policy: Policy) -> tuple[Policy, list[Policy]]:
    """A view of the policy whose diffusions are constant, so that an objective trains its torsions alone, and those
    diffusions; of a policy that is all diffusion, itself and none."""
    if not isinstance(policy, PolicyChain) or all(isinstance(view, DiffusionPolicy) for view in policy.views):
        return policy, []
    diffusions = [view for view in policy.views if isinstance(view, DiffusionPolicy)]
    return policy.seen_as(lambda view: Constant(view) if isinstance(view, DiffusionPolicy) else view), diffusions
