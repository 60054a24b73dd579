"""Stereocentres, amides and distances by the geometry of the frames."""

from __future__ import annotations

import mdtraj as md
import networkx
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molsampler.analysis.observables.bond_graph import graph_of
from molsampler.analysis.observables.distances import distances, distant_pairs
from molsampler.analysis.observables.stereochemistry import cis, handedness, inverted
from molsampler.analysis.observables.torsions import torsion_angles


def topology_of(atoms: list[str], bonds: list[tuple[int, int]]) -> md.Topology:
    topology = md.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    made = [topology.add_atom(f"{s}{k}", md.element.get_by_symbol(s), residue) for k, s in enumerate(atoms)]
    for a, b in bonds:
        topology.add_bond(made[a], made[b])
    return topology


def test_alanine_has_one_stereocentre_and_its_mirror_image_is_found(peptide) -> None:
    graph = graph_of(peptide.topology)
    assert [graph.labels[i] for i in graph.stereocentres] == ["ALA2-CA"]
    both = np.stack([peptide.positions, peptide.positions * [1.0, 1.0, -1.0], peptide.positions[:, [1, 2, 0]]])
    assert inverted(md.Trajectory(both, peptide.topology), peptide.positions).tolist() == [False, True, False]


def test_alanine_is_l(peptide) -> None:
    """N, C and CB as seen from CA of an L residue turn so that (N x C) . CB > 0; HA lies behind them."""
    index = {a.name: a.index for a in peptide.topology.atoms if a.residue.name == "ALA"}
    n, c, cb = (peptide.positions[index[name]] - peptide.positions[index["CA"]] for name in ("N", "C", "CB"))
    assert np.linalg.det([n, c, cb]) > 0
    assert handedness(peptide.positions[None], [[index[name] for name in ("N", "C", "CB", "HA")]])[0, 0] == 1


def test_what_is_a_stereocentre_is_read_off_the_whole_graph() -> None:
    """CHFCl-CH2-CH3 has one; 3-methylhexane's centre has four carbons or hydrogens of which two differ only four bonds
    away; 3-ethylpentane has none."""
    small = topology_of(["C", "H", "F", "Cl", "C"], [(0, 1), (0, 2), (0, 3), (0, 4)])
    assert list(graph_of(small).stereocentres) == [0]
    methyl_hexane = ["C"] * 7 + ["H"]
    bonds = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (2, 6), (2, 7)]  # hydrogens elsewhere are left out
    assert list(graph_of(topology_of(methyl_hexane, bonds)).stereocentres) == [2]
    ethyl_pentane = [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5), (5, 6), (2, 7)]
    assert graph_of(topology_of(methyl_hexane, ethyl_pentane)).stereocentres == {}


def test_amides_are_found_and_cis_is_counted(peptide) -> None:
    quadruples = graph_of(peptide.topology).isomeric_amides
    names = [[peptide.topology.atom(i).name for i in q] for q in quadruples]
    assert [n[1:3] for n in names] == [["C", "N"], ["C", "N"]] and names[0][0] == "CH3" and names[0][3] == "CA"
    hinge, end = peptide.positions[quadruples[0][2]], peptide.positions[quadruples[0][1]]
    moving = [0, 1, 2, 3, 4, 5]  # the acetyl group, turned about its amide bond
    assert all(peptide.topology.atom(i).residue.name == "ACE" for i in moving)
    axis = (end - hinge) / np.linalg.norm(end - hinge)
    frames = np.repeat(peptide.positions[None], 3, 0)
    for frame, angle in zip(frames, np.deg2rad([10.0, 100.0, 180.0]), strict=True):
        turn = Rotation.from_rotvec(angle * axis)
        frame[moving] = turn.apply(frame[moving] - hinge) + hinge
    trajectory = md.Trajectory(frames, peptide.topology)
    omega = np.rad2deg(torsion_angles(trajectory, quadruples)[:, 0])
    assert (np.abs(omega) < 90).tolist() == cis(trajectory).tolist() == [False, True, True]


def test_proline_is_judged_by_its_ca_and_primary_amides_not_at_all() -> None:
    #          0    1    2    3 (CD)  4 (CA)  5
    proline = topology_of(["C", "C", "O", "N", "C", "C"], [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)])
    proline.atom(5).name = "CA"
    assert graph_of(proline).isomeric_amides == ((0, 1, 3, 5),)
    primary = topology_of(["C", "C", "O", "N", "H", "H"], [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)])
    assert graph_of(primary).isomeric_amides == ()


def test_pairs_are_heavy_and_three_bonds_apart(peptide) -> None:
    pairs = distant_pairs(peptide.topology)
    graph = networkx.Graph([(a.index, b.index) for a, b in peptide.topology.bonds])
    heavy = [a.index for a in peptide.topology.atoms if a.element.symbol != "H"]
    truth = [(i, j) for i in heavy for j in heavy if i < j and networkx.shortest_path_length(graph, i, j) >= 3]
    assert sorted(map(tuple, pairs.tolist())) == truth and len(truth) == 25
    few = distant_pairs(peptide.topology, most=7)
    assert len(few) == 7 and set(map(tuple, few.tolist())) <= set(truth)


def test_distances_are_euclidean(peptide) -> None:
    pairs = distant_pairs(peptide.topology)
    found = distances(md.Trajectory(peptide.positions[None], peptide.topology), pairs)
    truth = np.linalg.norm(peptide.positions[pairs[:, 0]] - peptide.positions[pairs[:, 1]], axis=-1)
    assert found[0] == pytest.approx(truth, abs=1e-6)
    assert distances(md.Trajectory(peptide.positions[None], peptide.topology), pairs[:0]).shape == (1, 0)
