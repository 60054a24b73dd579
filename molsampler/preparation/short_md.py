"""The short MD run from a structure, and what it is for: its frames and forces standardise a first chart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.settings import setting
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.molecule import Molecule


@dataclass(frozen=True)
class SetupConfig:
    """The short MD run from the input structure that standardises the chart, at the target's temperature."""

    chains: int = setting(128, "conformations at once", low=1)
    burn_in: float = setting(1.0, "before frames are kept", unit="ps", low=0.0)
    length: float = setting(1.0, "while frames are kept", unit="ps", above=0.0)
    interval: float = setting(0.04, "between two frames", unit="ps", above=0.0)
    timestep: float = setting(0.001, "of the dynamics", unit="ps", above=0.0, high=0.01)
    friction: float = setting(5.0, "of the dynamics", unit="1/ps", above=0.0)

    @property
    def frames(self) -> int:
        """How many are kept, where no conformation fails."""
        return self.chains * (round(self.length / self.timestep) // self.stride)

    @property
    def stride(self) -> int:
        """Steps between two frames."""
        return max(round(self.interval / self.timestep), 1)


def short_md(
    molecule: Molecule,
    energy: Energy,
    setup: SetupConfig,
    generator: torch.Generator,
    device: str,
    structure: np.ndarray | None = None,
) -> torch.Tensor:
    """Frames (M, N, 3) nm of an MD run from a structure (N, 3) nm, by default the input's."""
    dynamics = Langevin(energy, molecule.masses, molecule.temperature, setup.timestep, setup.friction)
    structure = molecule.positions if structure is None else structure
    start = torch.tensor(structure, dtype=torch.float32, device=device)
    frames: list[torch.Tensor] = []
    with energy.counter.purpose("md"):
        state = dynamics.start(start.expand(setup.chains, -1, -1).contiguous(), generator)
        state = dynamics.step(state, round(setup.burn_in / setup.timestep), generator)
        state = dynamics.step(
            state,
            round(setup.length / setup.timestep),
            generator,
            on_frame=lambda done, s: frames.append(s.positions[~s.failed].clone()),
            frame_interval=setup.stride,
        )
    if bool(state.failed.all()):
        raise InputError(
            f"every conformation of the short MD run of '{molecule.name}' reached a non-finite energy: the input "
            "structure may have clashes; minimise it first, or use a smaller time step"
        )
    return torch.cat(frames)


def standardise(chart: Chart, molecule: Molecule, energy: Energy, frames: torch.Tensor) -> Chart:
    """The chart standardised on frames (M, N, 3) nm of MD, and refined by the forces there; returns it.

    Forces tell what a covariance of few and dependent frames does not: how thin the density is where it is bent, as it
    is in a ring. Costs M evaluations.
    """
    chart.fit(frames)
    z = chart.to_standard(frames)
    charted = chart.place_batch_last(z.T)
    with energy.counter.purpose("md"):
        _, forces = energy.energy_and_forces(charted.placed.positions.permute(2, 1, 0).contiguous())
    score = chart.pull_back(charted, molecule.beta * forces.permute(2, 1, 0).to(z)).T
    good = torch.isfinite(score).all(-1)
    return chart.refine(z[good], score[good])
