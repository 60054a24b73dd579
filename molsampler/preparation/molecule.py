"""From a molecule to a target that the sampler can start on: standardisation, every basin, restandardisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from molsampler.basis.errors import InputError
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.molecule import Molecule
from molsampler.smc.annealed import AnnealConfig, Prefill, annealed_smc
from molsampler.smc.moves.mala import ChainState
from molsampler.targets.molecule import MoleculeTarget

Say = Callable[[str], None]


@dataclass(frozen=True)
class SetupConfig:
    """The short MD run from the input structure that standardises the chart, at the target's temperature.

    chains : conformations at once; burn_in, length : ps before frames are kept, and while; interval : ps between frames
    timestep : ps; friction : 1/ps
    """

    chains: int = 128
    burn_in: float = 1.0
    length: float = 1.0
    interval: float = 0.04
    timestep: float = 0.001
    friction: float = 5.0


def prepare_molecule(
    molecule: Molecule,
    energy: Energy,
    setup: SetupConfig,
    anneal: AnnealConfig,
    generator: torch.Generator,
    *,
    device: str = "cpu",
    compile: bool = True,
    say: Say = lambda text: None,
) -> tuple[MoleculeTarget, Prefill]:
    """The target on its final chart, and weighted states of it that stand for R.

    MD from the input structure standardises a first chart. Annealed SMC from that chart's prior then reaches every
    basin, knowing nothing of the molecule but its energy; the chart is standardised again on what it found, and log R
    of its particles computed again. (The integral of R is the same on both charts.)
    """
    chart = Chart(molecule, device=device)
    chart.fit(_short_md(molecule, energy, setup, generator, device))
    say(f"short MD: standardised {chart.n_stiff} stiff coordinates (condition number {chart.condition_number:.0f})")
    target = MoleculeTarget(molecule, chart, energy, compile)
    with energy.counter.purpose("prefill"):
        annealed = annealed_smc(target.log_prob_and_score, target.space, anneal, generator)
        say(
            f"annealing: {len(annealed.betas)} temperatures, log Z {annealed.log_z:.2f}, "
            f"{annealed.distinct_ancestors} of {anneal.particles} prior draws have descendants"
        )
        positions, hot = target.positions(annealed.state.x), target.positions(annealed.explorers.x)
        chart.fit(positions)
        state, _ = _on_chart(target, positions)
        explorers, inside = _on_chart(target, hot)
    return target, Prefill(state, annealed.log_z, explorers, annealed.explorer_log_w[inside])


def _on_chart(target: MoleculeTarget, positions: torch.Tensor) -> tuple[ChainState, torch.Tensor]:
    """States (M, D) of positions (B, N, 3) on the target's chart, and which of the B are on its support."""
    x = target.chart.from_cartesian(positions)
    log_r, score = target.log_prob_and_score(x)
    inside = torch.isfinite(log_r)
    return ChainState(x[inside], log_r[inside], score[inside]), inside


def _short_md(
    molecule: Molecule, energy: Energy, setup: SetupConfig, generator: torch.Generator, device: str
) -> torch.Tensor:
    """Frames (M, N, 3) nm of an MD run from the input structure."""
    dynamics = Langevin(energy, molecule.masses, molecule.temperature, setup.timestep, setup.friction)
    start = torch.tensor(molecule.positions, dtype=torch.float32, device=device)
    frames: list[torch.Tensor] = []
    with energy.counter.purpose("md"):
        state = dynamics.start(start.expand(setup.chains, -1, -1).contiguous(), generator)
        state = dynamics.step(state, round(setup.burn_in / setup.timestep), generator)
        state = dynamics.step(
            state,
            round(setup.length / setup.timestep),
            generator,
            on_frame=lambda done, s: frames.append(s.positions[~s.failed].clone()),
            frame_interval=max(round(setup.interval / setup.timestep), 1),
        )
    if bool(state.failed.all()):
        raise InputError(
            f"every conformation of the short MD run of '{molecule.name}' reached a non-finite energy: the input "
            "structure may have clashes; minimise it first, or use a smaller time step"
        )
    return torch.cat(frames)
