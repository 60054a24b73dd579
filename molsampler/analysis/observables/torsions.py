"""Torsion angles of frames, all in radians in (-pi, pi], as mdtraj defines them (IUPAC sign)."""

from __future__ import annotations

from typing import NamedTuple

import mdtraj as md
import numpy as np

from molsampler.analysis.observables.bond_graph import graph_of


class BackbonePair(NamedTuple):
    """The phi and psi of one residue: its label and two quadruples of atom indices."""

    residue: str
    phi: tuple[int, int, int, int]
    psi: tuple[int, int, int, int]


def backbone_pairs(topology: md.Topology) -> list[BackbonePair]:
    """Every residue that has both phi and psi, in the order of the chain; empty for a molecule that is no peptide.

    A quadruple belongs to the residue of its CA: the third atom of phi, the second of psi. Where two chains number
    their residues alike, labels carry the chain as well, so that each is there once.
    """
    if topology.n_atoms < 4:
        return []
    frame = md.Trajectory(np.zeros((1, topology.n_atoms, 3), dtype=np.float32), topology)
    phis = {topology.atom(int(q[2])).residue.index: q for q in md.compute_phi(frame)[0]}
    psis = {topology.atom(int(q[1])).residue.index: q for q in md.compute_psi(frame)[0]}
    found = sorted(phis.keys() & psis.keys())
    labels = [str(topology.residue(i)) for i in found]
    if len(set(labels)) < len(labels):
        labels = [f"{label}-{topology.residue(i).chain.index}" for label, i in zip(labels, found, strict=True)]
    return [
        BackbonePair(label, tuple(map(int, phis[i])), tuple(map(int, psis[i])))
        for label, i in zip(labels, found, strict=True)
    ]


def torsion_angles(trajectory: md.Trajectory, quadruples: np.ndarray | list) -> np.ndarray:
    """(n_frames, k) float64 radians: the torsions of k quadruples of atom indices."""
    quadruples = np.asarray(quadruples, dtype=np.int64).reshape(-1, 4)
    if len(quadruples) == 0:
        return np.zeros((trajectory.n_frames, 0))
    return md.compute_dihedrals(trajectory, quadruples, periodic=False).astype(np.float64)


def phi_psi(trajectory: md.Trajectory, pair: BackbonePair) -> np.ndarray:
    """(n_frames, 2) float64 radians: phi and psi of one residue."""
    return torsion_angles(trajectory, [pair.phi, pair.psi])


def torsion_names(topology: md.Topology, quadruples: np.ndarray | list) -> list[str]:
    """One readable label a quadruple: "phi ALA2", "psi ALA2", "omega ALA2", or its four atoms."""
    known = {}
    for pair in backbone_pairs(topology):
        known[pair.phi], known[pair.psi] = f"phi {pair.residue}", f"psi {pair.residue}"
    names = []
    for quadruple in np.asarray(quadruples, dtype=np.int64).reshape(-1, 4):
        key = tuple(map(int, quadruple))
        atoms = [topology.atom(i) for i in key]
        inner = {atoms[1].name, atoms[2].name}
        across = atoms[1].residue.index != atoms[2].residue.index
        if key in known or key[::-1] in known:
            names.append(known.get(key) or known[key[::-1]])
        elif inner == {"C", "N"} and across:
            names.append(f"omega {max(atoms[1:3], key=lambda a: a.residue.index).residue}")
        else:
            names.append("-".join(a.name for a in atoms) + f" {atoms[1].residue}")
    return names


def shown_torsions(topology: md.Topology) -> list[tuple[int, int, int, int]]:
    """One quadruple a bond that can turn, from the bond graph alone: phi and psi of every residue first, then bonds
    between two atoms that both have another heavy neighbour, those of rings where an end is tetrahedral.

    Without bonds, as of an unknown residue in a PDB file, phi and psi are all there is.
    """
    graph = graph_of(topology)
    found = [quadruple for pair in backbone_pairs(topology) for quadruple in (pair.phi, pair.psi)]
    taken = {frozenset(quadruple[1:3]) for quadruple in found}
    heavy = [number != 1 for number in graph.atomic_numbers]
    amides = {frozenset(quadruple[1:3]) for quadruple in graph.isomeric_amides}
    for i, j in graph.bonds:
        if frozenset((i, j)) in taken | amides or not (heavy[i] and heavy[j]):
            continue
        before = [k for k in graph.neighbours[i] if k != j and heavy[k]]
        after = [k for k in graph.neighbours[j] if k != i and heavy[k]]
        rigid = (i, j) in graph.ring_bonds and max(len(graph.neighbours[i]), len(graph.neighbours[j])) < 4
        if before and after and not rigid and before[0] != after[0]:
            found.append((before[0], i, j, after[0]))
    return found
