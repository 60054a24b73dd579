"""Method arms: the same trainer under other configurations, by name, for comparison with the literature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.training.config import TrainConfig

Change = Callable[[TrainConfig], TrainConfig]


@dataclass(frozen=True)
class Arm:
    """description : one line; change : what it does to a configuration; baseline : the kernel of a classical annealed
    SMC that learns nothing, or None"""

    description: str
    change: Change = lambda config: config
    baseline: str | None = None


BALANCE_COST = 3
"""An update of trajectory balance takes the time of about so many of denoising; arms that do without one of them get
its share of a budget in updates. Arms that differentiate through rollouts or see scores take longer for the same."""


def _scratch(config: TrainConfig, **parts: Any) -> TrainConfig:
    """As the papers train: from the untrained policy, no warm start, no annealing."""
    updates = config.updates
    if updates is not None and config.warm_updates is not None:
        updates += config.warm_updates // BALANCE_COST
    config = change(
        config,
        start="scratch",
        warm_updates=0,
        updates=updates,
        optimiser={"rate": 1e-3, "log_z_rate": 5e-2, "residual_limit": 1e6},
        passes={"every": 0},
        moves={"every": 0},
        explorers={"share": 0.0},
        rollouts={"number": 0},
    )
    return change(config, **parts)


def _denoising_only(config: TrainConfig) -> TrainConfig:
    warm_updates = config.warm_updates
    if warm_updates is not None and config.updates is not None:
        warm_updates += BALANCE_COST * config.updates
    return change(config, warm_share=1.0, warm_updates=warm_updates, updates=0)


def _on_policy(**parts: Any) -> Change:
    return lambda config: change(_scratch(config, batch={"replay_updates": 0}, replay={"draw": "none"}), **parts)


def _with(**parts: Any) -> Change:
    """The default, with fields of the configuration or of its tables changed."""
    return lambda config: change(config, **parts)


def _replay(draw: str, **parts: Any) -> Change:
    return lambda config: change(_scratch(config, replay={"draw": draw}), **parts)


def _tempered(gamma: float) -> Change:
    return _replay("importance", passes={"every": 2}, smc={"gamma": gamma}, replay={"gamma": gamma})


ARMS: dict[str, Arm] = {
    "default": Arm("annealed start, denoising, then TB + SMC with importance-weighted replay"),
    "tb": Arm("TB on policy, from scratch", _on_policy()),
    "tb+uniform": Arm("TB with uniform replay", _replay("uniform")),
    "tb+rank": Arm("TB with rank-prioritised replay", _replay("rank")),
    "tb+iw": Arm("TB with importance-weighted replay", _replay("importance")),
    "tb+smc": Arm("TB on policy and on fresh SMC particles", _replay("none", passes={"every": 1})),
    "tb+smc+iw": Arm(
        "TB, SMC and importance-weighted replay: reinforced SMC", _replay("importance", passes={"every": 2})
    ),
    "tb+smc+iw-emphasis": Arm(
        "reinforced SMC whose particles are resampled by their weight times their loss",
        _replay("importance", passes={"every": 2}, smc={"emphasis": 1.0}),
    ),
    **{
        f"gamma-{gamma:g}": Arm(f"reinforced SMC with tempering goal gamma = {gamma:g}", _tempered(gamma))
        for gamma in (0.0, 0.5)
    },
    "tb+exploration": Arm("TB on policy with exploration noise", _on_policy(batch={"exploration": 0.3})),
    "tb+langevin": Arm("TB on policy, Langevin parametrisation", _on_policy(policy={"langevin": True})),
    "tb+local-search": Arm(
        "TB, rank-prioritised replay, MALA local search and exploration noise",
        _replay("rank", moves={"every": 50}, batch={"exploration": 0.3}),
    ),
    "teacher": Arm("TB on policy and on rollouts of an adaptive teacher", _on_policy(teacher={"every": 2})),
    "teacher+iw": Arm(
        "TB, adaptive teacher and importance-weighted replay", _replay("importance", teacher={"every": 2})
    ),
    "teacher+local-search": Arm(
        "TB, adaptive teacher, rank-prioritised replay and MALA local search",
        _replay("rank", teacher={"every": 2}, moves={"every": 50}),
    ),
    "learnt-noising": Arm(
        "TB with importance-weighted replay, p_B corrected by a network",
        _replay("importance", noising={"learnt": "states"}),
    ),
    "learnt-schedule": Arm(
        "TB with importance-weighted replay, p_B corrected step by step",
        _replay("importance", noising={"learnt": "steps"}),
    ),
    "log-variance": Arm(
        "log-variance (VarGrad) on policy", _on_policy(objective="log_variance", batch={"per_condition": 8})
    ),
    "subtb-fl": Arm(
        "SubTB(0.9), forward-looking flow, on policy",
        _on_policy(objective="subtb", twist={"partial_energy": True}),
    ),
    "db": Arm("detailed balance on policy", _on_policy(objective="db")),
    "pis": Arm(
        "reverse KL, pinned Brownian process, Langevin parametrisation",
        _on_policy(objective="reverse_kl", schedule={"process": "brownian"}, policy={"langevin": True}),
    ),
    "dds": Arm(
        "reverse KL, Ornstein-Uhlenbeck process, Langevin parametrisation",
        _on_policy(objective="reverse_kl", policy={"langevin": True}),
    ),
    "brownian": Arm("default with the pinned Brownian process", _with(schedule={"process": "brownian"})),
    "langevin": Arm("default with the Langevin parametrisation", _with(policy={"langevin": True})),
    "partial-energy": Arm("default with partial energies in the twist", _with(twist={"partial_energy": True})),
    "twist-optimal": Arm("default, twist by regression on the optimal one", _with(twist_loss="optimal")),
    "twist-contrastive": Arm("default, twist by contrast", _with(twist_loss="contrastive")),
    "twist-moves": Arm("default, five MALA steps on the twist at every chunk end of SMC", _with(smc={"moves": 5})),
    "denoising-only": Arm("annealed start and denoising, no TB", _denoising_only),
    "smc-mala": Arm("classical annealed SMC, MALA moves", baseline="mala"),
    "smc-hmc": Arm("classical annealed SMC, HMC moves", baseline="hmc"),
    "smc-rw": Arm("classical annealed SMC, random-walk moves", baseline="random_walk"),
}


def find_arm(name: str) -> Arm:
    """The arm of that name; InputError lists the names there are."""
    if name not in ARMS:
        known = "; ".join(f"{known} ({arm.description})" for known, arm in ARMS.items())
        raise InputError(f"unknown arm '{name}'; choose from: {known}")
    return ARMS[name]


def apply_arm(name: str, config: TrainConfig) -> TrainConfig:
    """`config` as the arm changes it."""
    return find_arm(name).change(config)
