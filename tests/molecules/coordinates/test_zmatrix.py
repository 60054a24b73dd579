from __future__ import annotations

import dataclasses
import math

import mdtraj as md
import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.molecules.coordinates.internal import InternalCoordinates
from molsampler.molecules.coordinates.soft import soft_torsions, torsion_barriers
from molsampler.molecules.coordinates.zmatrix import build_zmatrix
from molsampler.molecules.loading.load import load_molecule
from tests.molecules.coordinates import chart_cases as cases

RT = thermal_energy(300.0)
KILOCALORIE = unit.kilocalorie.conversion_factor_to(unit.kilojoule)


def free_axes(zmatrix) -> list[tuple[int, int]]:
    return [tuple(sorted(t[1:3])) for t, free in zip(zmatrix.torsion_atoms.tolist(), zmatrix.free, strict=True) if free]


def test_alanine_dipeptide_has_seven_free_and_twelve_relative_torsions():
    zmatrix = build_zmatrix(cases.alanine_dipeptide())
    assert zmatrix.free.sum() == 7 and (~zmatrix.free).sum() == 12
    assert sorted(free_axes(zmatrix)) == [(1, 4), (4, 6), (6, 8), (8, 10), (8, 14), (14, 16), (16, 18)]


@pytest.mark.parametrize(
    "make", [cases.alanine_dipeptide, cases.toluene, cases.with_proline, cases.with_phenylalanine, cases.lysozyme]
)
def test_rows_are_bonded_chains_to_placed_atoms_and_axes_have_one_free_torsion(make):
    molecule = make()
    zmatrix = build_zmatrix(molecule)
    bonds = set(molecule.bonds)
    placed: set[int] = set()
    for k, (a, *references) in enumerate(zmatrix.rows.tolist()):
        references = [r for r in references if r >= 0]
        assert len(references) == min(k, 3) and a not in placed
        assert placed.issuperset(references) and len(set(references)) == len(references)
        assert all(tuple(sorted(p)) in bonds for p in zip([a, *references[:2]], references[:2], strict=False))
        if len(references) == 3:
            free = zmatrix.free[k - 3]
            joined = references[1] if free else references[0]  # a sibling hangs on b, the end of a dihedral on c
            assert tuple(sorted((references[2], joined))) in bonds
        placed.add(a)
    assert placed == set(range(molecule.n_atoms))
    axes = free_axes(zmatrix)
    assert len(set(axes)) == len(axes)
    tree = [tuple(sorted(b)) for b in zmatrix.bond_atoms.tolist()]
    degree = np.bincount(np.array(tree).ravel())
    assert sorted(axes) == sorted((i, j) for i, j in tree if degree[i] > 1 and degree[j] > 1)


def test_every_phi_and_psi_of_a_protein_is_a_coordinate():
    molecule = cases.lysozyme()
    zmatrix = build_zmatrix(molecule)
    free = {min(tuple(t), tuple(t[::-1])) for t in zmatrix.torsion_atoms[zmatrix.free].tolist()}
    frame = md.Trajectory(molecule.positions[None], md.Topology.from_openmm(molecule.topology))
    quadruples = np.concatenate([md.compute_phi(frame)[0], md.compute_psi(frame)[0]])
    assert len(quadruples) > 300
    missing = [q for q in quadruples.tolist() if min(tuple(q), tuple(q[::-1])) not in free]
    assert missing == []


def test_backbone_torsions_survive_a_bridge_between_side_chains():
    """A bond from CB to CB is a short cut from the middle of the chain to its end; the tree must not take it."""
    whole = cases.lysozyme_with_ligand()
    residues = [{a.name: a.index for a in r.atoms()} for r in list(whole.topology.residues())[2:11]]
    molecule = cases.fragment(whole, 2, 10, extra=[(residues[4]["CB"], residues[7]["CB"])])
    zmatrix = build_zmatrix(molecule)
    free = {min(tuple(t), tuple(t[::-1])) for t in zmatrix.torsion_atoms[zmatrix.free].tolist()}
    frame = md.Trajectory(molecule.positions[None], md.Topology.from_openmm(molecule.topology))
    quadruples = np.concatenate([md.compute_phi(frame)[0], md.compute_psi(frame)[0]]).tolist()
    assert len(quadruples) == 16
    assert [q for q in quadruples if min(tuple(q), tuple(q[::-1])) not in free] == []


def test_soft_torsions_of_alanine_dipeptide_are_phi_psi_and_the_methyl_rotors():
    molecule = cases.alanine_dipeptide()
    zmatrix = build_zmatrix(molecule)
    soft = soft_torsions(molecule, zmatrix)
    axes = [tuple(sorted(t[1:3])) for t in zmatrix.torsion_atoms[soft].tolist()]
    assert sorted(axes) == [(1, 4), (6, 8), (8, 10), (8, 14), (16, 18)]


def test_barrier_of_a_methyl_rotor_is_that_of_its_closed_form():
    """ff96: nine terms 0.1556 kcal/mol (1 + cos 3 t) about CA-CB, all in phase in a perfect rotor: 2.8 kcal/mol."""
    molecule = cases.alanine_dipeptide()
    barrier = torsion_barriers(molecule, [(8, 10)])[8, 10]
    assert barrier == pytest.approx(2 * 9 * KILOCALORIE * 0.15556, rel=0.02)
    assert torsion_barriers(molecule, [(4, 6)])[4, 6] > 30 * RT


def torsion_force(kind: str) -> openmm.Force:
    """A force on the torsion of hydrogen peroxide."""
    if kind == "periodic":
        force = openmm.PeriodicTorsionForce()
        force.addTorsion(3, 2, 1, 0, 2, 2.1, 3.0)
    elif kind == "ryckaert-bellemans":
        force = openmm.RBTorsionForce()
        force.addTorsion(0, 1, 2, 3, 1.0, 5.0, -2.0, 7.0, 0.5, -1.5)
    elif kind == "custom":
        force = openmm.CustomTorsionForce("k*cos(theta-0.4)^3")
        force.addPerTorsionParameter("k")
        force.addTorsion(0, 1, 2, 3, [6.0])
    else:
        force = openmm.CMAPTorsionForce()
        force.addMap(6, np.random.default_rng(0).normal(0.0, 5.0, 36))
        force.addTorsion(0, 0, 1, 2, 3, 3, 2, 1, 0)
    return force


@pytest.mark.parametrize("kind", ["periodic", "ryckaert-bellemans", "custom", "cmap"])
def test_barrier_agrees_with_a_scan_by_openmm(kind):
    molecule = cases.hydrogen_peroxide()
    other = openmm.PeriodicTorsionForce()
    other.addTorsion(0, 1, 2, 3, 1, 0.7, 4.0)
    molecule.system.addForce(other)
    molecule.system.addForce(torsion_force(kind))
    context = openmm.Context(
        molecule.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    internal = InternalCoordinates(build_zmatrix(molecule))
    bonds, angles, torsions = internal.to_internal(torch.as_tensor(molecule.positions)[None])
    energies = []
    for turn in torch.arange(360.0, dtype=torch.float64).deg2rad():
        context.setPositions(internal.to_cartesian(bonds, angles, torsions + turn)[0].numpy())
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert torsion_barriers(molecule, [(1, 2)])[1, 2] == pytest.approx(max(energies) - min(energies), rel=1e-6)


def test_an_improper_is_no_barrier():
    """It holds an atom in the plane of its neighbours, and nothing about that changes as a bond of theirs turns."""
    molecule = cases.alanine_dipeptide()
    force = openmm.PeriodicTorsionForce()
    force.addTorsion(8, 16, 14, 15, 2, 0.3, 100.0)
    stiffened = openmm.XmlSerializer.clone(molecule.system)
    stiffened.addForce(force)
    axes = [(8, 14), (14, 16)]
    expected = torsion_barriers(molecule, axes)
    barriers = torsion_barriers(dataclasses.replace(molecule, system=stiffened), axes)
    assert all(barriers[axis] == pytest.approx(expected[axis], abs=1e-9) for axis in axes)


def test_soft_torsions_can_be_overridden_by_index_and_by_label():
    molecule = cases.alanine_dipeptide()
    zmatrix = build_zmatrix(molecule)
    labels = molecule.atom_labels
    soft = soft_torsions(molecule, zmatrix, soft=[(6, 4), (labels[8], labels[14])])
    assert sorted(tuple(sorted(t[1:3])) for t in zmatrix.torsion_atoms[soft].tolist()) == [(4, 6), (8, 14)]
    assert soft_torsions(molecule, zmatrix, soft=[]).sum() == 0
    assert soft_torsions(molecule, zmatrix, barrier=3.0).sum() < 5
    assert soft_torsions(molecule, zmatrix, barrier=50.0).sum() == 5  # an amide is none, however low its barrier


@pytest.mark.parametrize(
    ("axis", "words"), [((0, 1), "no soft torsion"), ((8, 99), "99"), (("ALA2-XX", "ALA2-CA"), "ALA2-XX")]
)
def test_an_axis_that_cannot_be_soft_is_refused(axis, words):
    molecule = cases.alanine_dipeptide()
    with pytest.raises(InputError, match=words):
        soft_torsions(molecule, build_zmatrix(molecule), soft=[axis])


def test_flexible_rings_are_those_of_five_atoms_or_more_with_a_tetrahedral_one():
    assert cases.toluene().graph.flexible_rings == []
    assert [len(ring) for ring in cases.with_proline().graph.flexible_rings] == [5]
    graphs = {name: load_molecule(name).graph for name in ("phe", "cyclo_ala_gly", "cyclo_phe_pro")}
    lengths = {name: [len(ring) for ring in graph.flexible_rings] for name, graph in graphs.items()}
    assert lengths == {"phe": [], "cyclo_ala_gly": [12], "cyclo_phe_pro": [6, 5]}


def test_ring_bonds_are_found_and_never_soft():
    toluene = cases.toluene()
    carbons = [i for i in range(toluene.n_atoms) if toluene.atomic_numbers[i] == 6]
    rings = toluene.graph.ring_bonds
    assert len(rings) == 6 and all(i in carbons and j in carbons for i, j in rings)
    zmatrix = build_zmatrix(toluene)
    soft = soft_torsions(toluene, zmatrix)
    assert soft.sum() == 1  # the methyl group
    proline = cases.with_proline()
    names = [a.name for a in proline.topology.atoms()]
    pairs = {frozenset((names[i], names[j])) for i, j in proline.graph.ring_bonds}
    assert pairs == {frozenset(p) for p in [("N", "CA"), ("CA", "CB"), ("CB", "CG"), ("CG", "CD"), ("CD", "N")]}
    zmatrix = build_zmatrix(proline)
    turning = {tuple(sorted(t[1:3])) for t in zmatrix.torsion_atoms[soft_torsions(proline, zmatrix)].tolist()}
    assert turning and not turning & proline.graph.ring_bonds
    with pytest.raises(InputError, match="rings"):
        soft_torsions(proline, zmatrix, soft=[min(proline.graph.ring_bonds)])


def test_linear_angle_is_refused_by_name():
    angle = math.radians(178.0)
    bent = [[0, 0, 0], [0.1, 0, 0], [0.1 - 0.1 * math.cos(angle), 0.1 * math.sin(angle), 0], [0.3, 0.1, 0.05]]
    with pytest.raises(InputError, match="C0.*C1.*C2.*178"):
        build_zmatrix(cases.hand_made("CCCC", [(0, 1), (1, 2), (2, 3)], bent))


def test_angle_that_the_force_field_holds_linear_is_refused():
    bent = cases.hydrogen_peroxide()
    force = openmm.HarmonicAngleForce()
    force.addAngle(2, 1, 0, math.pi, 100.0)
    bent.system.addForce(force)
    with pytest.raises(InputError, match="180.0 degrees"):
        build_zmatrix(bent)


def test_unconnected_molecule_is_refused_by_name():
    positions = [[0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [1, 1, 1], [1.1, 1, 1]]
    with pytest.raises(InputError, match="MOL.*H3"):
        build_zmatrix(cases.hand_made("HOHHH", [(0, 1), (1, 2), (3, 4)], positions))
    with pytest.raises(InputError, match="TMP163-C1"):
        build_zmatrix(cases.lysozyme_with_ligand())


def test_two_atoms_are_refused():
    with pytest.raises(InputError, match="2 atoms"):
        build_zmatrix(cases.hand_made("HH", [(0, 1)], [[0, 0, 0], [0.1, 0, 0]]))
