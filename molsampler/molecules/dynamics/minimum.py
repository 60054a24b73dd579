"""The nearest minimum of a structure, by OpenMM's L-BFGS."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

_TOLERANCE = 0.5  # kJ/mol/nm, root mean square force
_STEPS = 2000


def nearest_minimum(system: openmm.System, positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Positions (N, 3) nm of the minimum that positions (N, 3) relax to, and its energy in kJ/mol, in double."""
    for name in ("CPU", "Reference"):  # CPU is the faster one, but does not know every force
        try:
            context = _context(system, name)
            context.setPositions(positions)
            openmm.LocalEnergyMinimizer.minimize(context, _TOLERANCE, _STEPS)
            state = context.getState(positions=True)
            break
        except openmm.OpenMMException:
            if name == "Reference":
                raise
    relaxed = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64)
    return relaxed, potential_energy(system, relaxed)


def potential_energy(system: openmm.System, positions: np.ndarray) -> float:
    """kJ/mol of positions (N, 3) nm, by OpenMM's Reference platform."""
    context = _context(system, "Reference")
    context.setPositions(positions)
    return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def _context(system: openmm.System, platform: str) -> openmm.Context:
    # one structure twice relaxes to the same minimum
    properties = {"Threads": "1", "DeterministicForces": "true"} if platform == "CPU" else {}
    platform = openmm.Platform.getPlatformByName(platform)
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
