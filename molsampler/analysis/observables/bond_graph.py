"""The bond graph of an mdtraj topology."""

from __future__ import annotations

import mdtraj as md

from molsampler.basis.graph import Graph


def graph_of(topology: md.Topology) -> Graph:
    """Its atoms and bonds; residues are labelled as mdtraj does it, "ALA2"."""
    atoms = list(topology.atoms)
    return Graph.of(
        [0 if atom.element is None else atom.element.number for atom in atoms],
        [(a.index, b.index) for a, b in topology.bonds],
        [atom.name for atom in atoms],
        [str(atom.residue) for atom in atoms],
    )
