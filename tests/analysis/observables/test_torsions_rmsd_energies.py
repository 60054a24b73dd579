"""Torsions, RMSD and energy histograms against values known otherwise."""

from __future__ import annotations

import mdtraj as md
import numpy as np
import pytest

from molsampler.analysis.observables.energies import energy_edges, energy_histogram, quantiles
from molsampler.analysis.observables.ramachandran import find_basins
from molsampler.analysis.observables.rmsd import (
    heavy_atoms,
    lowest_in_basins,
    medoid,
    rmsd_to,
    rmsd_to_nearest,
    superposed,
)
from molsampler.analysis.observables.torsions import backbone_pairs, phi_psi, torsion_angles, torsion_names


def wrapped(x: np.ndarray) -> np.ndarray:
    return (x + np.pi) % (2 * np.pi) - np.pi


def test_phi_and_psi_are_those_that_were_set_and_those_of_mdtraj(peptide) -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(-np.pi, np.pi, (200, 2))
    frames = md.Trajectory(peptide.frames(angles), peptide.topology)
    found = phi_psi(frames, peptide.pair)
    assert np.abs(wrapped(found - angles)).max() < 1e-4
    assert np.abs(wrapped(found[:, 0] - md.compute_phi(frames)[1][:, 0])).max() < 1e-6
    assert np.abs(wrapped(found[:, 1] - md.compute_psi(frames)[1][:, 0])).max() < 1e-6


def test_backbone_pairs_and_names_of_alanine_dipeptide(peptide) -> None:
    pairs = backbone_pairs(peptide.topology)
    assert [pair.residue for pair in pairs] == ["ALA2"]
    atoms = [[peptide.topology.atom(i).name for i in quadruple] for quadruple in pairs[0][1:]]
    assert atoms == [["C", "N", "CA", "C"], ["N", "CA", "C", "N"]]
    ca, c, n, me = pairs[0].psi[1], pairs[0].psi[2], pairs[0].psi[3], pairs[0].psi[3] + 2
    names = torsion_names(peptide.topology, [pairs[0].phi, pairs[0].psi[::-1], (ca, c, n, me), peptide.methyl])
    assert names[:3] == ["phi ALA2", "psi ALA2", "omega NME3"]
    assert names[3].endswith("ACE1") and names[3].count("-") == 3


def test_a_molecule_without_backbone_has_no_pairs() -> None:
    topology = md.Topology()
    residue = topology.add_residue("BUT", topology.add_chain())
    for k in range(5):
        topology.add_atom(f"C{k}", md.element.carbon, residue)
    assert backbone_pairs(topology) == []
    frames = md.Trajectory(np.zeros((3, 5, 3)), topology)
    assert torsion_angles(frames, []).shape == (3, 0)


def test_rmsd_ignores_rigid_motion_and_knows_hydrogens(peptide) -> None:
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = peptide.positions @ turn.T + [1.0, -2.0, 3.0]
    shaken = peptide.positions.copy()
    hydrogens = np.setdiff1d(np.arange(22), heavy_atoms(peptide.topology))
    shaken[hydrogens] += 0.01
    assert len(hydrogens) == 12
    frames = md.Trajectory(np.stack([peptide.positions, moved, shaken]), peptide.topology)
    assert rmsd_to(frames, peptide.positions).max() < 5e-4  # mdtraj's single precision
    assert md.rmsd(frames, frames, 0)[2] > 2e-3


def test_rmsd_equals_kabschs_formula(peptide) -> None:
    frames = peptide.frames(np.array([[1.0, 0.5]]))
    heavy = heavy_atoms(peptide.topology)
    a, b = frames[0, heavy], peptide.positions[heavy]
    a, b = a - a.mean(0), b - b.mean(0)
    u, s, v = np.linalg.svd(a.T @ b)
    s[-1] *= np.sign(np.linalg.det(u @ v))
    truth = np.sqrt((np.square(a).sum() + np.square(b).sum() - 2 * s.sum()) / len(heavy))
    assert rmsd_to(md.Trajectory(frames, peptide.topology), peptide.positions)[0] == pytest.approx(truth, abs=1e-5)


def test_the_nearest_minimum_is_the_one_that_a_frame_came_from(peptide, mixture) -> None:
    rng = np.random.default_rng(2)
    angles, mode = mixture(rng, 600, [0.4, 0.3, 0.2, 0.1], width=0.1)
    frames = md.Trajectory(peptide.frames(angles), peptide.topology)
    energy = rng.random(600)
    energy[:5] = np.inf
    basins = find_basins(angles)
    names, minima = lowest_in_basins(frames, energy, basins, angles)
    assert sorted(names) == sorted(basins.names)
    distance = rmsd_to_nearest(frames, minima)
    nearest = np.argmin([rmsd_to(frames, structure) for structure in minima], axis=0)
    modes = [["C7eq", "C5", "alphaR", "alphaL"].index(name) for name in names]
    assert (np.array(modes)[nearest] == mode).all()
    for k, name in enumerate(names):
        inside = np.flatnonzero(basins.assign(angles) == basins.names.index(name))
        lowest = inside[np.argmin(energy[inside])]
        assert np.array_equal(minima[k], frames.xyz[lowest])
        assert distance[lowest] < 1e-3


def test_weighted_quantiles_by_hand() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.2, 0.5, 0.3])
    assert quantiles(values, weights, [0.4, 0.5, 0.6, 0.9, 1.0]).tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_an_energy_histogram_integrates_to_one_by_weight() -> None:
    rng = np.random.default_rng(3)
    energy = rng.normal(-50.0, 8.0, 5000)
    weights = np.exp(-0.05 * energy)
    weights /= weights.sum()
    edges = energy_edges([(energy, weights)])
    density = energy_histogram(energy, weights, edges)
    assert (density * np.diff(edges)).sum() == pytest.approx(1.0, abs=0.005)
    centre = 0.5 * (edges[1:] + edges[:-1])
    assert (density * np.diff(edges) * centre).sum() == pytest.approx(-50.0 - 0.05 * 64.0, abs=0.5)


def test_clashes_do_not_stretch_the_range() -> None:
    energy = np.append(np.linspace(0.0, 10.0, 2000), [np.inf, 1e30])
    weights = np.append(np.full(2000, 1 / 2000), [0.0, 0.0])
    edges = energy_edges([(energy, weights)])
    assert -1.0 < edges[0] < 0.1 and 9.9 < edges[-1] < 11.0
    with pytest.raises(ValueError, match="finite"):
        energy_edges([(np.array([np.inf]), None)])


def test_superposed_frames_coincide_and_lie_along_x_unmirrored(peptide) -> None:
    rng = np.random.default_rng(5)
    (bent,) = peptide.frames(np.array([[-1.2, 0.9]]))  # as it stands it is nearly flat, its own mirror image
    frames = []
    for _ in range(6):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn *= np.sign(np.linalg.det(turn))
        frames.append(bent @ turn.T + rng.normal(size=3))
    trajectory = md.Trajectory(np.stack(frames), peptide.topology)
    before = trajectory.xyz.copy()
    found = superposed(trajectory, 2)
    assert np.abs(found.xyz - found.xyz[2]).max() < 1e-5 and np.array_equal(trajectory.xyz, before)
    heavy = found.xyz[0, heavy_atoms(peptide.topology)]
    spread = heavy.var(0)
    assert spread[0] > spread[1] > spread[2] and np.abs(heavy.mean(0)).max() < 1e-5
    assert np.abs(np.cov(heavy.T) - np.diag(np.diag(np.cov(heavy.T)))).max() < 1e-6
    corners = [6, 8, 10, 14]
    volumes = [np.linalg.det(x[corners[:3]] - x[corners[3]]) for x in (found.xyz[0], bent)]
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-3)


def test_superposed_frames_are_as_near_to_the_one_as_they_can_be(peptide) -> None:
    """Without another fit, the RMSD to it is that of the best fit."""
    angles = np.random.default_rng(6).uniform(-np.pi, np.pi, (30, 2))
    trajectory = md.Trajectory(peptide.frames(angles), peptide.topology)
    heavy = heavy_atoms(peptide.topology)
    for onto in (3, 4):
        found = superposed(trajectory, onto).xyz[:, heavy]
        apart = np.sqrt(np.square(found - found[onto]).sum(-1).mean(-1))
        assert apart == pytest.approx(rmsd_to(trajectory, trajectory.xyz[onto]), abs=5e-4)  # mdtraj's single precision


def test_the_medoid_is_the_middle_of_three(peptide) -> None:
    frames = peptide.frames(np.array([[-1.0, 2.0], [-1.6, 2.0], [-1.3, 2.0], [-1.2, 1.9]]))
    assert medoid(md.Trajectory(frames[:3], peptide.topology)) == 2
    assert medoid(md.Trajectory(frames[[1, 0, 0, 0]], peptide.topology)) > 0  # many of one count as many
    assert medoid(md.Trajectory(frames[:1], peptide.topology)) == 0
