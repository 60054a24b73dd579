"""What is read off OpenMM's topology and forces: labels, bonds, and the graph that they make."""

from __future__ import annotations

from collections.abc import Sequence

import openmm
from openmm import app

from molsampler.basis.graph import Graph

Pair = tuple[int, int]


def residue_label(residue: app.topology.Residue) -> str:
    """Name and number, such as "ALA2"."""
    return f"{residue.name}{residue.id}"


def bonded_pairs(topology: app.Topology) -> list[Pair]:
    """Indices of the atoms of every bond, as the topology has them."""
    return [(a.index, b.index) for a, b in topology.bonds()]


def graph_of(topology: app.Topology, bonds: Sequence[Pair]) -> Graph:
    """The graph of the topology's atoms and of `bonds`, in any order."""
    atoms = list(topology.atoms())
    numbers = [atom.element.atomic_number if atom.element else 0 for atom in atoms]
    return Graph.of(numbers, bonds, [atom.name for atom in atoms], [residue_label(atom.residue) for atom in atoms])


def spring_bonds(system: openmm.System) -> set[Pair]:
    """Sorted pairs (i, j), i < j, of the atoms that every HarmonicBondForce bonds.

    CHARMM's Urey-Bradley terms are harmonic bonds too, between the ends of an angle. The force field itself tells
    them from bonds, those of three-membered rings included: a bond is an arm of some angle, they never are.
    """
    springs: set[Pair] = set()
    arms: set[Pair] = set()
    ends: set[Pair] = set()
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for n in range(force.getNumBonds()):
                springs.add(tuple(sorted(force.getBondParameters(n)[:2])))
        elif isinstance(force, openmm.HarmonicAngleForce):
            for n in range(force.getNumAngles()):
                i, j, k, *_ = force.getAngleParameters(n)
                arms |= {tuple(sorted((i, j))), tuple(sorted((j, k)))}
                ends.add(tuple(sorted((i, k))))
    return springs - (ends - arms)
