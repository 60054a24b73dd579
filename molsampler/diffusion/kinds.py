"""Which process and policy a configuration means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.space import Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, Policy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, Process


def make_process(space: Space, config: ScheduleConfig) -> Process:
    """The noising process of a schedule on a space."""
    return NoisingProcess(space, config)


def make_policy(
    process: Process,
    config: PolicyConfig,
    generator: torch.Generator,
    score: Callable[[Tensor], Tensor] | None = None,
) -> Policy:
    """The policy for a process; `generator` draws its first parameters, `score` is for the Langevin parametrisation."""
    return DiffusionPolicy(process, config, generator, score)
