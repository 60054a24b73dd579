"""What can be read off a molecule: residues, charge, solvent, names of torsions, stereocentres and amides."""

from __future__ import annotations

import numpy as np
import openmm
import torch
from openmm import app, unit

from molsampler.basis.graph import Graph
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.stereo import cosine_signs, triple_products
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.topology import bonded_pairs, graph_of

_BACKBONE = {("N", "CA"): "phi", ("CA", "C"): "psi", ("C", "N"): "omega"}
_SIDE_CHAIN = "ABGDEZH"  # Greek letters of atom names, outwards
_MANY = 12  # residues


def residues(molecule: Molecule) -> str:
    """Names of the residues, in order; of many only how many there are of each chain."""
    names = [residue.name for residue in molecule.topology.residues()]
    return " ".join(names) if len(names) <= _MANY else f"{len(names)} residues, {' '.join(names[:_MANY])} ..."


def net_charge(molecule: Molecule) -> float | None:
    """Sum of the charges of the NonbondedForce in e; None where there is no such force."""
    for force in molecule.system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charges = (force.getParticleParameters(i)[0] for i in range(molecule.n_atoms))
            return sum(charge.value_in_unit(unit.elementary_charge) for charge in charges)
    return None


def solvent(molecule: Molecule) -> str:
    """ "vacuum", or "implicit solvent" with the force that gives it."""
    for force in molecule.system.getForces():
        kind = type(force).__name__
        if "GBSA" in kind or "CustomGB" in kind or "Kirkwood" in kind:
            return f"implicit solvent ({kind})"
    return "vacuum"


def soft_torsions_named(molecule: Molecule, chart: Chart) -> list[str]:
    """One line a soft torsion, along the chain: phi, psi, omega, chi1 ..., or rotor where only hydrogens turn."""
    return [
        f"{torsion_kind(molecule, *atoms[1:3]):6s}{' '.join(molecule.atom_labels[i] for i in atoms)}"
        for atoms in sorted(chart.soft_atoms.tolist(), key=lambda atoms: sorted(atoms[1:3]))
    ]


def torsion_kind(molecule: Molecule, i: int, j: int) -> str:
    """What turns about the bond i-j, by the names of its atoms; '' where they have none in a peptide."""
    atoms = list(molecule.topology.atoms())
    for one, other in ((i, j), (j, i)):
        beyond = [k for k in molecule.graph.neighbours[one] if k != other]
        if all(molecule.atomic_numbers[k] == 1 for k in beyond):
            return "rotor"
    residue_names = {a.name for a in atoms[i].residue.atoms()} | {a.name for a in atoms[j].residue.atoms()}
    if not {"N", "CA", "C"} <= residue_names:
        return ""
    for pair in ((atoms[i].name, atoms[j].name), (atoms[j].name, atoms[i].name)):
        if pair in _BACKBONE:
            return _BACKBONE[pair]
        inner, outer = (_SIDE_CHAIN.find(name[1:2]) if name[1:2] else -1 for name in pair)
        if inner >= 0 and outer == inner + 1:
            return f"chi{outer}"
    return ""


def stereocentres(molecule: Molecule) -> list[str]:
    """Labels of the tetrahedral atoms with four different neighbours, with L or D where it is the CA of a residue."""
    sides = _sides(molecule.graph, molecule.positions)
    labels = molecule.atom_labels
    return [labels[i] + (f" ({sides[i]})" if i in sides else "") for i in molecule.graph.stereocentres]


def alpha_handedness(topology: app.Topology, positions: np.ndarray) -> dict[str, str]:
    """ "L" or "D" of every residue with N, CA, C and CB, by its label such as "ALA2"; positions (N, 3)."""
    graph = graph_of(topology, bonded_pairs(topology))
    return {graph.residues[i]: side for i, side in _sides(graph, positions).items()}


def _sides(graph: Graph, positions: np.ndarray) -> dict[int, str]:
    """ "L" or "D" by CA."""
    quadruples = torch.tensor(list(graph.alphas.values()), dtype=torch.long).reshape(-1, 4)
    volumes = triple_products(torch.as_tensor(positions, dtype=torch.float64)[None], quadruples)[0]
    return {i: "L" if volume > 0 else "D" for i, volume in zip(graph.alphas, volumes.tolist(), strict=True)}


def amides(molecule: Molecule) -> list[tuple[str, str]]:
    """(label of C and N, "cis" or "trans") of every amide whose nitrogen carries another heavy atom."""
    quadruples = torch.tensor(molecule.graph.isomeric_amides, dtype=torch.long).reshape(-1, 4)
    positions = torch.as_tensor(molecule.positions, dtype=torch.float64)[None]
    labels = molecule.atom_labels
    cosines = cosine_signs(positions, quadruples)[0].tolist()
    return [
        (f"{labels[c]} {labels[n]}", "cis" if cosine > 0 else "trans")
        for (_, c, n, _), cosine in zip(quadruples.tolist(), cosines, strict=True)
    ]


def oddities(molecule: Molecule, searched: bool = True) -> list[str]:
    """What a user may not have meant or expect: D amino acids, cis amides, charges in vacuum, and conformers of rings,
    which are `searched` for or not."""
    found = [f"{c}: a D amino acid; it is kept as it is" for c in stereocentres(molecule) if c.endswith("(D)")]
    free = {molecule.graph.isomeric_amides.index(amide) for amide in molecule.free_amides}
    found += [
        f"the amide {label} is cis; it is kept as it is"
        for k, (label, side) in enumerate(amides(molecule))
        if side == "cis" and k not in free
    ]
    charge = net_charge(molecule)
    if charge is not None and abs(charge) > 0.5 and solvent(molecule) == "vacuum":
        found.append(f"a charge of {charge:+.0f} e in vacuum: charged groups collapse onto each other")
    return found + ring_cautions(molecule, searched)


def ring_cautions(molecule: Molecule, searched: bool) -> list[str]:
    """One sentence for each ring that may have other conformers, which are `searched` for or missed."""
    cautions = []
    said = (
        "those that hot dynamics find are sampled"
        if searched
        else "only those near that of the input structure are sampled"
    )
    for ring in molecule.graph.flexible_rings:
        atoms = " ".join(molecule.atom_labels[k] for k in ring[:3])
        cautions.append(f"the ring of {len(ring)} atoms with {atoms} may have other conformers: {said}")
    return cautions
