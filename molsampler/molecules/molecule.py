"""A molecule as the rest of the package sees it: one OpenMM System, its topology, a structure, a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import openmm
from openmm import app, unit

GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K (CODATA 2018)


@dataclass(frozen=True)
class Molecule:
    """One molecule in vacuum or implicit solvent.

    topology : openmm.app.Topology, atoms in the order of the System
    system : openmm.System without constraints, virtual sites or periodic box
    positions : (N, 3) float64, nm, the input structure
    temperature : K
    """

    name: str
    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    temperature: float

    @property
    def n_atoms(self) -> int:
        return self.system.getNumParticles()

    @property
    def beta(self) -> float:
        """Inverse temperature 1 / RT in mol/kJ."""
        return 1.0 / (GAS_CONSTANT * self.temperature)

    @cached_property
    def masses(self) -> np.ndarray:
        """(N,) float64, atomic masses in dalton."""
        return np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(self.n_atoms)])

    @cached_property
    def atomic_numbers(self) -> np.ndarray:
        """(N,) int, 0 for atoms without an element."""
        return np.array([a.element.atomic_number if a.element else 0 for a in self.topology.atoms()])

    @cached_property
    def atom_labels(self) -> list[str]:
        """One readable label an atom, such as 'ALA2-CA', for messages."""
        return [f"{a.residue.name}{a.residue.id}-{a.name}" for a in self.topology.atoms()]

    @cached_property
    def bonds(self) -> list[tuple[int, int]]:
        """Sorted pairs (i, j), i < j, of bonded atoms: the topology's bonds and those of every HarmonicBondForce.

        CHARMM's Urey-Bradley terms are harmonic bonds too, between the ends of an angle. The force field itself tells
        them from bonds, those of three-membered rings included: a bond is an arm of some angle, they never are.
        """
        pairs = {tuple(sorted((b.atom1.index, b.atom2.index))) for b in self.topology.bonds()}
        springs: set[tuple[int, ...]] = set()
        arms: set[tuple[int, ...]] = set()
        ends: set[tuple[int, ...]] = set()
        for force in self.system.getForces():
            if isinstance(force, openmm.HarmonicBondForce):
                for n in range(force.getNumBonds()):
                    springs.add(tuple(sorted(force.getBondParameters(n)[:2])))
            elif isinstance(force, openmm.HarmonicAngleForce):
                for n in range(force.getNumAngles()):
                    i, j, k, *_ = force.getAngleParameters(n)
                    arms |= {tuple(sorted((i, j))), tuple(sorted((j, k)))}
                    ends.add(tuple(sorted((i, k))))
        return sorted(pairs | (springs - (ends - arms)))
