"""Like atoms round an axis: what is found, and that turning them is a uniform draw from the group."""

from __future__ import annotations

import copy

import openmm
import torch

from molsampler.basis.counter import EvaluationCounter
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.rotors import find_rotors
from molsampler.molecules.coordinates.soft import soft_torsions
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.molecule import Molecule
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules import peptides
from tests.molecules.coordinates import chart_cases
from tests.stochastic import assert_mean, seeded
from tests.targets.test_conformance import alanine_dipeptide


def target_of(molecule: Molecule) -> MoleculeTarget:
    chart = Chart(molecule, dtype=torch.float64).fit(chart_cases.langevin_frames())
    energy = TorchEnergy(molecule, dtype=torch.float64, compile=False)
    target = MoleculeTarget(molecule, chart, energy, compile=False)
    z = chart.to_standard(chart_cases.langevin_frames())
    chart.refine(z, target.log_prob_and_score(z)[1])  # soft torsions then give way to stiff coordinates
    energy.counter = target.counter = EvaluationCounter()
    return target


def test_the_turned_molecule_is_the_same_with_its_names_turned():
    """Turned states of one frame are its three methyls' 27 namings, each as often as the others."""
    target, frame = target_of(alanine_dipeptide().molecule), chart_cases.langevin_frames()[:1]
    chart = target.coordinates
    z = chart.to_standard(frame).expand(2700, -1)
    turned, *_ = target.symmetrised(z, z[:, 0], torch.zeros_like(z), seeded(0))
    found = torch.cdist(x := chart.to_natural(turned)[0], x)
    seen = torch.zeros(2700, 27)
    for k in range(27):
        named = frame
        for rotor, times in zip(target.rotors, (k % 3, k // 3 % 3, k // 9), strict=True):
            for _ in range(times):
                named = named[:, rotor.turned(22)]
        seen[:, k] = (found - torch.cdist(named, named)).abs().amax((1, 2)) < 1e-8
    assert bool((seen.sum(1) == 1).all())
    assert_mean(seen, 1 / 27)
    assert target.counter.total == 0  # a run that goes on asks again which atoms are alike


def test_atoms_that_the_energy_tells_apart_stay():
    """One hydrogen of a methyl with another charge."""
    molecule = alanine_dipeptide().molecule
    whole = target_of(molecule)
    marked = whole.rotors[1].atoms[2]
    system = copy.deepcopy(molecule.system)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charge, sigma, epsilon = force.getParticleParameters(marked)
            force.setParticleParameters(marked, charge * 1.1, sigma, epsilon)
    other = target_of(Molecule("marked", molecule.topology, system, molecule.positions, molecule.temperature))
    assert len(whole.rotors) == 3 and other.rotors == [whole.rotors[0], whole.rotors[2]]
    z = torch.zeros(4, whole.space.dim, dtype=torch.float64)
    other.rotors.clear()
    assert other.symmetrised(z, z[:, 0], z, seeded(0))[0] is z  # none to turn


def test_an_amide_that_keeps_its_side_is_no_rotor():
    """Soft on purpose: the energy takes its two hydrogens for the same, but turned they lie off the support."""
    molecule = peptides.build("ACE ASN NME", "amber14-all.xml", "implicit/obc2.xml")
    soft = Chart(molecule, soft=[("ASN2-CG", "ASN2-ND2"), ("ASN2-CB", "ASN2-CG")])
    is_soft = torch.as_tensor(soft_torsions(molecule, soft.zmatrix, [("ASN2-CG", "ASN2-ND2"), ("ASN2-CB", "ASN2-CG")]))
    hydrogens = {molecule.atom_labels.index(f"ASN2-HD2{k}") for k in (1, 2)}
    found = [set(rotor.atoms) for rotor in find_rotors(molecule, soft.zmatrix, is_soft)]
    assert hydrogens in found and all(set(rotor.atoms) != hydrogens for rotor in soft.rotors)
