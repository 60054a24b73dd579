"""A molecule as the rest of the package sees it: one OpenMM System, its topology, a structure, a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import openmm
from openmm import app, unit

from molsampler.basis.graph import Graph, Quadruple, turned_bond
from molsampler.basis.units import thermal_energy
from molsampler.molecules.topology import bonded_pairs, graph_of, spring_bonds

Amides = Literal["kept", "free"]


@dataclass(frozen=True)
class Molecule:
    """One molecule in vacuum or implicit solvent.

    topology : openmm.app.Topology, atoms in the order of the System
    system : openmm.System without constraints, virtual sites or periodic box
    positions : (N, 3) float64, nm, the input structure
    temperature : K
    amides : whether an amide outside rings keeps the side, cis or trans, of the input structure, or takes both
    """

    name: str
    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    temperature: float
    amides: Amides = "kept"

    @property
    def n_atoms(self) -> int:
        return self.system.getNumParticles()

    @property
    def beta(self) -> float:
        """Inverse temperature 1 / RT in mol/kJ."""
        return 1.0 / thermal_energy(self.temperature)

    @cached_property
    def masses(self) -> np.ndarray:
        """(N,) float64, atomic masses in dalton."""
        return np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(self.n_atoms)])

    @cached_property
    def graph(self) -> Graph:
        """The bond graph: the topology's bonds and those that the forces hold together."""
        return graph_of(self.topology, [*bonded_pairs(self.topology), *spring_bonds(self.system)])

    @cached_property
    def atomic_numbers(self) -> np.ndarray:
        """(N,) int, 0 for atoms without an element."""
        return np.array(self.graph.atomic_numbers)

    @property
    def atom_labels(self) -> tuple[str, ...]:
        """One readable label an atom, such as 'ALA2-CA', for messages."""
        return self.graph.labels

    @property
    def free_amides(self) -> tuple[Quadruple, ...]:
        """The atoms (x, C, N, y) of each amide that is sampled both cis and trans; those in rings never are."""
        if self.amides == "kept":
            return ()
        return tuple(q for q in self.graph.isomeric_amides if turned_bond(q) not in self.graph.ring_bonds)

    @property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Sorted pairs (i, j), i < j, of bonded atoms."""
        return self.graph.bonds
