"""One walk over coordinates and energies, for every folder in systems/ and for peptides with every side chain.

`CHECKS` at the end names what each molecule goes through. Some molecules do by default, check by check; the others are
left to --slow, one test each.
"""

from __future__ import annotations

import functools
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from openmm import app, unit
from torch import Tensor

from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.internal import dihedral, wrap
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules.coordinates.chart_cases import aligned_error
from tests.molecules.energy.energy_cases import reference
from tests.molecules.peptides import build, relax

AMBER = ("amber14-all.xml", "implicit/obc2.xml")
ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = sorted(path.parent.name for path in (ROOT / "systems").glob("*/system.toml"))
BUILT = sorted(path.parent.name for path in (ROOT / "systems").glob("*/input.pdb"))  # by scripts/make_structures.py
# Bonds of each residue that turn right round, apart from the backbone's.
SIDE_CHAINS = {
    "ALA": "CA-CB",
    "ARG": "CA-CB CB-CG CG-CD CD-NE",
    "ASN": "CA-CB CB-CG",
    "ASP": "CA-CB CB-CG",
    "CYS": "CA-CB CB-SG",
    "GLN": "CA-CB CB-CG CG-CD",
    "GLU": "CA-CB CB-CG CG-CD",
    "GLY": "",
    "HID": "CA-CB CB-CG",
    "HIE": "CA-CB CB-CG",
    "HIP": "CA-CB CB-CG",
    "ILE": "CA-CB CB-CG1 CB-CG2 CG1-CD1",
    "LEU": "CA-CB CB-CG CG-CD1 CG-CD2",
    "LYS": "CA-CB CB-CG CG-CD CD-CE CE-NZ",
    "MET": "CA-CB CB-CG CG-SD SD-CE",
    "PHE": "CA-CB CB-CG",
    "PRO": "",
    "SER": "CA-CB CB-OG",
    "THR": "CA-CB CB-OG1 CB-CG2",
    "TRP": "CA-CB CB-CG",
    "TYR": "CA-CB CB-CG CZ-OH",
    "VAL": "CA-CB CB-CG1 CB-CG2",
}
CAPS = {"ACE": "CH3-C", "NME": "N-C N-CH3"}  # the carbon of NME goes by either name
# Molecules of one residue that is no amino acid: soft bonds, number of amides.
OTHERS = {
    "cyclohexanol": ("C1-O1", 0),
    "paracetamol": ("C14-C15 N21-C22 C25-O28", 1),
    "ALAD": ("CL-CLP NL-CA CA-CRP CA-CB NR-CR", 2),
}
QUICK = (*SYSTEMS, "ALAD", "ACE ARG NME", "ACE TRP NME")
SLOW = (
    *(f"ACE {residue} NME" for residue in SIDE_CHAINS if f"ACE {residue} NME" not in QUICK),
    "ACE TRP PRO HID LYS ASP PHE NME",
    "ACE TYR ARG ILE GLU CYS THR NME",
    "ACE GLN ASN SER VAL LEU MET NME",
    "ACE GLY HIP ALA HIE PRO GLY NME",
)
CHAINS, INTERVAL = 32, 4  # of the MD run: conformations at once, fs between frames


@functools.cache
def molecule(name: str) -> Molecule:
    """A folder in systems/, alanine dipeptide of CHARMM36 in vacuum, or a sequence in amber14."""
    if name in SYSTEMS:
        return load_molecule(name)
    return build(name, "charmm36.xml") if name == "ALAD" else build(name, *AMBER)


@dataclass(frozen=True)
class Case:
    """A molecule, frames (M, N, 3) float64 nm of MD at 600 K, and the chart that they standardise, in double."""

    molecule: Molecule
    energy: TorchEnergy
    frames: Tensor
    chart: Chart


@functools.cache
def case(name: str) -> Case:
    torch.set_num_threads(1)
    mol = molecule(name)
    energy = TorchEnergy(mol, dtype=torch.float64, compile=False)
    dynamics = Langevin(energy, mol.masses, 600.0, timestep=0.001, friction=10.0)
    generator = torch.Generator().manual_seed(0)
    start = torch.as_tensor(mol.positions)
    state = dynamics.start(start.expand(CHAINS, -1, -1).contiguous(), generator)
    state = dynamics.step(state, 50, generator)
    frames: list[Tensor] = []
    # Three times as many frames as a covariance of 3N - 6 coordinates takes: fewer would look ill-conditioned.
    steps = INTERVAL * (9 * mol.n_atoms // CHAINS + 1)
    state = dynamics.step(state, steps, generator, lambda _, s: frames.append(s.positions.clone()), INTERVAL)
    assert not bool(state.failed.any())
    return Case(mol, energy, torch.cat(frames), Chart(mol, dtype=torch.float64).fit(torch.cat(frames)))


def coordinates_are_3n_minus_6(case: Case) -> None:
    n, chart = case.molecule.n_atoms, case.chart
    assert chart.dim == chart.n_stiff + chart.n_soft == len(set(chart.names)) == 3 * n - 6
    zmatrix = chart.zmatrix
    assert sorted(zmatrix.order.tolist()) == list(range(n))
    bonded = {frozenset((bond.atom1.index, bond.atom2.index)) for bond in case.molecule.topology.bonds()}
    bonds = {frozenset(pair) for pair in zmatrix.bond_atoms.tolist()}
    assert len(bonds) == n - 1 and bonds <= bonded
    assert all({frozenset(row[:2]), frozenset(row[1:])} <= bonded for row in zmatrix.angle_atoms.tolist())


def round_trips(case: Case) -> None:
    x, chart = case.frames, case.chart
    z = chart.to_standard(x)
    y, _ = chart.to_natural(z)
    assert aligned_error(y, x) < 1e-9
    difference = chart.to_standard(y) - z
    assert float(difference[:, : chart.n_stiff].abs().max()) < 1e-6
    assert bool((wrap(difference[:, chart.n_stiff :]).abs() < 1e-9).all())


def energies_survive_the_round_trip(case: Case) -> None:
    x = case.frames[::7]
    y, _ = case.chart.to_natural(case.chart.to_standard(x))
    energy = case.energy.energy(y)
    assert float((energy - case.energy.energy(x)).abs().max()) < 1e-5
    assert energy[:2].numpy() == pytest.approx(reference(case.molecule, x[:2])[0], abs=1e-5)


def log_det_is_that_of_the_inverse_map(case: Case) -> None:
    """With B = dz/dx and K the six rigid motions, log |det dx/d(motion, z)| = (log det K^T K - log det B B^T) / 2.

    K^T B^T = 0, so the columns of B^+ are what z moves without rigid motion: nothing here places an atom.
    """
    x = case.frames[0]
    b = torch.autograd.functional.jacobian(lambda p: case.chart.to_standard(p[None])[0], x).flatten(1)
    unit = torch.eye(3, dtype=torch.float64)[:, None].expand(-1, len(x), -1)  # (3, N, 3)
    k = torch.cat([unit, torch.linalg.cross(unit, (x - x.mean(0)).expand(3, -1, -1))]).flatten(1)
    assert float((b @ k.T).abs().max()) < 1e-6 * float(b.abs().max())
    expected = 0.5 * (torch.linalg.slogdet(k @ k.T)[1] - torch.linalg.slogdet(b @ b.T)[1])
    _, log_det = case.chart.to_natural(case.chart.to_standard(x[None]))
    assert float(log_det) == pytest.approx(float(expected), abs=1e-6)


def soft_torsions_are_those_of_its_residues(case: Case) -> None:
    topology = case.molecule.topology
    atoms = list(topology.atoms())
    capped = any(residue.name == "ACE" for residue in topology.residues())
    expected = {axis for residue in topology.residues() for axis in soft_axes(case.molecule.name, residue, capped)}
    found = [frozenset(atoms[k] for k in row[1:3]) for row in case.chart.soft_atoms.tolist()]
    assert set(found) == expected and len(found) == len(expected)


def soft_axes(name: str, residue: app.topology.Residue, capped: bool) -> list[frozenset]:
    """A cyclic peptide, which has no caps, turns about its side chains alone."""
    if name in OTHERS:
        words = OTHERS[name][0]
    elif residue.name in CAPS:
        words = CAPS[residue.name]
    else:
        backbone = ("CA-C" if residue.name == "PRO" else "N-CA CA-C") if capped else ""
        words = f"{backbone} {SIDE_CHAINS[residue.name]}"
    named = {atom.name: atom for atom in residue.atoms()}
    pairs = [word.split("-") for word in words.split()]
    return [frozenset((named[a], named[b])) for a, b in pairs if {a, b} <= named.keys()]


def stereochemistry_is_kept_at_600_kelvin(case: Case) -> None:
    """Every frame is on the support, its mirror image is not, nor is it with an amide turned over."""
    x, chart = case.frames, case.chart
    assert bool(chart.inside(chart.to_standard(x), x).all())
    assert not bool(chart.stereo.matches(-x).any())
    amides = [frozenset(quadruple[1:3]) for quadruple in case.molecule.graph.amides]
    assert len(amides) == len(chart.stereo.amides) == amides_expected(case.molecule)
    rings = {frozenset(bond) for bond in case.molecule.graph.ring_bonds}
    bonds, angles, torsions = chart.internal.to_internal(x[:4])
    for k, row in enumerate(chart.zmatrix.torsion_atoms.tolist()):
        axis = frozenset(row[1:3])
        if chart.zmatrix.free[k] and axis in amides and axis not in rings:
            turned = torsions.clone()
            turned[:, k] += torch.pi
            assert not bool(chart.stereo.matches(chart.internal.to_cartesian(bonds, angles, turned)).any())
            turned[:, k] += torch.pi
            assert bool(chart.stereo.matches(chart.internal.to_cartesian(bonds, angles, turned)).all())


def amides_expected(mol: Molecule) -> int:
    residues = [residue.name for residue in mol.topology.residues()]
    if mol.name in OTHERS:
        return OTHERS[mol.name][1]
    side_chains = sum(name in ("ASN", "GLN") for name in residues)
    return len(residues) - ("ACE" in residues) + side_chains  # a ring of n residues has n


def standardised_coordinates_are_well_conditioned(case: Case) -> None:
    chart = case.chart
    assert 1.0 < chart.condition_number < 5e3
    z = chart.to_standard(case.frames)[:, : chart.n_stiff]
    assert float((torch.cov(z.T, correction=0) - torch.eye(chart.n_stiff)).abs().max()) < 1e-6
    assert float(z.abs().max()) < 12.0


def prior_draws_are_molecules(case: Case) -> None:
    """The untrained sampler, N(0, 1) and uniform angles, draws nearly all of its points on the support, at a finite
    median energy."""
    target = MoleculeTarget(case.molecule, case.chart, case.energy, compile=False)
    z = target.space.sample_prior(256, torch.Generator().manual_seed(1)).double()
    assert float(torch.isfinite(target.log_prob(z)).double().mean()) > 0.8
    lowest = case.energy.energy(torch.as_tensor(case.molecule.positions)[None])
    above = case.energy.energy(target.positions(z)) - lowest
    limit = 2e4 if case.molecule.n_atoms < 45 else 1e9  # six side chains that point anywhere clash
    assert 0.0 < float(above.median()) < limit


def scores_are_those_of_autograd_and_of_differences(case: Case) -> None:
    """Forces and torques over subtrees give what autograd gives, to 1e-10, and what log R does along a line."""
    target = MoleculeTarget(case.molecule, case.chart, case.energy, compile=False)
    z = case.chart.to_standard(case.frames[:: len(case.frames) // 5]).requires_grad_()
    expected = torch.autograd.grad(target.log_prob(z).sum(), z)[0]
    z = z.detach()
    score = target.log_prob_and_score(z)[1]
    largest = expected.abs().max(1, keepdim=True).values
    assert float(((score - expected) / largest).abs().max()) < 1e-10
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=z.dtype)
    step = 1e-5 * torch.nn.functional.normalize(direction, dim=1)
    change = target.log_prob(z + step) - target.log_prob(z - step)
    along = (score * step).sum(1)
    assert float((0.5 * change - along).abs().max()) < 1e-6 * float((largest[:, 0] * step.norm(dim=1)).max())


def like_atoms_may_change_places(case: Case) -> None:
    """Every methyl and ammonium turns its names round, at the same log R and with the score that belongs there."""
    target, graph = MoleculeTarget(case.molecule, case.chart, case.energy, compile=False), case.molecule.graph
    hydrogens = [[j for j in near if graph.atomic_numbers[j] == 1] for near in graph.neighbours]
    turning = {frozenset(rotor.atoms) for rotor in target.rotors}
    assert {frozenset(three) for three in hydrogens if len(three) == 3} <= turning
    z = case.chart.to_standard(case.frames[:: len(case.frames) // 5])
    log_r, score = target.log_prob_and_score(z)
    # with soft torsions that give way to stiff coordinates, at the same positions
    covariance, shear = (
        case.chart.covariance,
        torch.randn(case.chart.shear.shape, generator=torch.Generator().manual_seed(1)),
    )
    chart = Chart(case.molecule, dtype=torch.float64).standardise(case.chart.mean, covariance, shear)
    target = MoleculeTarget(case.molecule, chart, case.energy, compile=False)
    z = chart.to_standard(case.frames[:: len(case.frames) // 5])
    torch.testing.assert_close(target.log_prob(z), log_r, rtol=0.0, atol=1e-6)
    log_r, score = target.log_prob_and_score(z)
    turned, turned_log_r, turned_score = target.symmetrised(z, log_r, score, torch.Generator().manual_seed(0))
    assert bool(((turned - z).abs() > 0.1).any()) == bool(target.rotors)
    expected_log_r, expected = target.log_prob_and_score(turned)
    assert float((expected_log_r - turned_log_r).abs().max()) < 1e-6
    assert float((turned_score - expected).abs().max()) < 1e-8 * float(expected.abs().max())


CHECKS: tuple[Callable[[Case], None], ...] = (
    coordinates_are_3n_minus_6,
    round_trips,
    energies_survive_the_round_trip,
    log_det_is_that_of_the_inverse_map,
    soft_torsions_are_those_of_its_residues,
    stereochemistry_is_kept_at_600_kelvin,
    standardised_coordinates_are_well_conditioned,
    prior_draws_are_molecules,
    scores_are_those_of_autograd_and_of_differences,
    like_atoms_may_change_places,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", QUICK)
def test_conformance(name, check):
    check(case(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_conformance_of_every_side_chain(name):
    prepared = case(name)
    for check in CHECKS:
        check(prepared)


@pytest.mark.parametrize("name", BUILT)
def test_shipped_structures_are_minima(name):
    """No atom is more than rounding to a thousandth of an angstrom away from where its minimum can be."""
    mol = molecule(name)
    before = reference(mol, torch.as_tensor(mol.positions)[None])[0][0]
    positions, energy = relax(mol.system, mol.positions)
    assert before - energy < 0.2
    assert aligned_error(torch.as_tensor(positions)[None], torch.as_tensor(mol.positions)[None]) < 0.02


def test_shipped_structures_are_what_the_script_makes(tmp_path):
    """All that are there have a recipe; two are made again."""
    script = runpy.run_path(str(ROOT / "scripts" / "make_structures.py"))
    assert sorted(script["RECIPES"]) == BUILT
    script["main"](["gly", "pro"], tmp_path)
    for name in ("gly", "pro"):
        made, mol = app.PDBFile(str(tmp_path / name / "input.pdb")), molecule(name)
        assert [atom.name for atom in made.topology.atoms()] == [atom.name for atom in mol.topology.atoms()]
        positions = torch.as_tensor(np.array(made.positions.value_in_unit(unit.nanometer)))
        assert aligned_error(positions[None], torch.as_tensor(mol.positions)[None]) < 0.005


def test_chi1_is_measured_from_n_or_a_fixed_angle_off():
    """Before the root of the Z-matrix chi1 counts from C, not from N: 120 degrees off, wherever it turns to."""
    mol, chart = molecule("ala3"), case("ala3").chart
    generator = torch.Generator().manual_seed(2)
    line = torch.randn(200, chart.n_stiff, generator=generator, dtype=torch.float64)
    circle = torch.pi * (1 - 2 * torch.rand(200, chart.n_soft, generator=generator, dtype=torch.float64))
    x, _ = chart.to_natural(torch.cat([line, circle], dim=1))
    offsets = []
    for residue in mol.topology.residues():
        named = {atom.name: atom.index for atom in residue.atoms()}
        if "CB" in named:
            chi1 = dihedral(*(x[:, named[k]] for k in ("N", "CA", "CB", "HB1")))
            axes = [{*row[1:3]} for row in chart.soft_atoms.tolist()]
            off = wrap(chi1 - circle[:, axes.index({named["CA"], named["CB"]})])
            offsets.append(torch.atan2(off.sin().mean(), off.cos().mean()))
            assert float(wrap(off - offsets[-1]).std().rad2deg()) < 6.0
    degrees = sorted(abs(float(off.rad2deg())) for off in offsets)
    assert degrees[0] < 1e-6 and degrees[-1] == pytest.approx(120.0, abs=6.0)
