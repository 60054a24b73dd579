"""Molecules and frames that the tests of internal coordinates share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmtools import testsystems

from molsampler.molecules.molecule import Molecule


def from_test_system(name: str, test_system) -> Molecule:
    positions = np.array(test_system.positions.value_in_unit(unit.nanometer))
    return Molecule(name, test_system.topology, test_system.system, positions, 300.0)


@functools.cache
def alanine_dipeptide() -> Molecule:
    return from_test_system("aldp", testsystems.AlanineDipeptideVacuum(constraints=None))


@functools.cache
def toluene() -> Molecule:
    return from_test_system("toluene", testsystems.TolueneVacuum(constraints=None))


@functools.cache
def lysozyme_with_ligand() -> Molecule:
    """162 residues and a benzene derivative that no bond joins to them."""
    return from_test_system("lysozyme", testsystems.LysozymeImplicit(constraints=None))


def fragment(whole: Molecule, first: int, last: int, extra: Sequence[tuple[int, int]] = ()) -> Molecule:
    """Residues first..last of a chain with their bonded terms; the cut bonds dangle, and nothing here minds.

    extra : bonds to add, between atoms numbered as in `whole`
    """
    residues = list(whole.topology.residues())[first : last + 1]
    topology, system = app.Topology(), openmm.System()
    chain = topology.addChain()
    new: dict[int, int] = {}
    atoms = []
    for residue in residues:
        copy = topology.addResidue(residue.name, chain, residue.id)
        for atom in residue.atoms():
            new[atom.index] = len(atoms)
            atoms.append(topology.addAtom(atom.name, atom.element, copy))
            system.addParticle(whole.system.getParticleMass(atom.index))
    for i, j in [*whole.bonds, *extra]:
        if i in new and j in new:
            topology.addBond(atoms[new[i]], atoms[new[j]])
    torsions = openmm.PeriodicTorsionForce()
    for force in whole.system.getForces():
        if isinstance(force, openmm.PeriodicTorsionForce):
            for n in range(force.getNumTorsions()):
                *quadruple, period, phase, k = force.getTorsionParameters(n)
                if all(i in new for i in quadruple):
                    torsions.addTorsion(*(new[i] for i in quadruple), period, phase, k)
    system.addForce(torsions)
    return Molecule("fragment", topology, system, whole.positions[list(new)], 300.0)


@functools.cache
def lysozyme() -> Molecule:
    return fragment(lysozyme_with_ligand(), 0, 161)


@functools.cache
def with_proline() -> Molecule:
    """SER-PRO-SER: the ring shares a bond with the backbone."""
    return fragment(lysozyme(), 35, 37)


@functools.cache
def with_phenylalanine() -> Molecule:
    """ILE-PHE-GLU."""
    return fragment(lysozyme(), 2, 4)


def hand_made(symbols: str, bonds: list[tuple[int, int]], positions: list[list[float]]) -> Molecule:
    """A molecule of one residue without any force: atoms X0, X1, ... of the elements given, positions in nm."""
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [topology.addAtom(f"{s}{i}", app.Element.getBySymbol(s), residue) for i, s in enumerate(symbols)]
    for atom in atoms:
        system.addParticle(atom.element.mass)
    for i, j in bonds:
        topology.addBond(atoms[i], atoms[j])
    return Molecule("made", topology, system, np.array(positions, dtype=float), 300.0)


def water() -> Molecule:
    return hand_made("OHH", [(0, 1), (0, 2)], [[0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]])


def hydrogen_peroxide() -> Molecule:
    positions = [[0.1, 0.09, 0.02], [0, 0, 0], [0.14, 0, 0], [0.16, 0.02, 0.1]]
    return hand_made("HOOH", [(0, 1), (1, 2), (2, 3)], positions)


def perturbed(molecule: Molecule, n: int, sigma: float = 0.004, seed: int = 0) -> torch.Tensor:
    """(n, N, 3) float64 nm: the input structure with every atom moved by Gaussian noise of `sigma` nm."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.as_tensor(molecule.positions, dtype=torch.float64)
    return x + sigma * torch.randn(n, *x.shape, generator=generator, dtype=torch.float64)


@functools.cache
def langevin_frames() -> torch.Tensor:
    """(200, 22, 3) float64 nm: a short 300 K run of alanine dipeptide in vacuum."""
    molecule = alanine_dipeptide()
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.001)
    integrator.setRandomNumberSeed(7)
    context = openmm.Context(molecule.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(molecule.positions)
    context.setVelocitiesToTemperature(300.0, 11)
    integrator.step(500)
    frames = []
    for _ in range(200):
        integrator.step(20)
        frames.append(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    return torch.as_tensor(np.array(frames), dtype=torch.float64)


def aligned_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance in nm between atoms of frames (B, N, 3) after the best proper rigid motion (Kabsch)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    u, _, vt = torch.linalg.svd(a.transpose(1, 2) @ b)
    sign = torch.linalg.det(u @ vt).sign()
    u = torch.cat([u[:, :, :2], u[:, :, 2:] * sign[:, None, None]], dim=2)
    return float((a @ (u @ vt) - b).norm(dim=-1).max())


def random_motion(n: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Proper rotations (n, 3, 3) and translations (n, 1, 3) in nm."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None, :]
    q = q * torch.linalg.det(q)[:, None, None]  # in three dimensions -q turns a reflection into a rotation
    return q, torch.randn(n, 1, 3, generator=generator, dtype=torch.float64)
