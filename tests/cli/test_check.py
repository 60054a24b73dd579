"""`molsampler check`: what it says is right, and it says it in time."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import openmm
import pytest
import torch

from molsampler.cli import main as cli
from molsampler.cli.description import describe
from molsampler.molecules import facts
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.dynamics.minimum import nearest_minimum, potential_energy
from molsampler.molecules.energy.openmm_worker import ContextEvaluator
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.new_system import Request, make_system
from molsampler.preparation.check import _conformations_per_second, understand
from tests.molecules.energy.energy_cases import molecule
from tests.molecules.structures import FORCE_FIELD, capped_segment


@pytest.fixture(scope="module")
def aldp():
    return understand("aldp")


@pytest.fixture
def no_stopwatch(aldp, monkeypatch) -> None:
    """The speeds that were measured once: a measurement takes as long as all the rest."""
    monkeypatch.setattr("molsampler.preparation.check._measure_speed", lambda *arguments: aldp.speed)


def test_energies_are_those_of_openmm(aldp):
    mol = molecule("aldp")
    assert aldp.energies.total == pytest.approx(potential_energy(mol.system, mol.positions), abs=1e-6)
    assert sum(aldp.energies.terms.values()) == pytest.approx(aldp.energies.total, abs=1e-6)
    assert {"NonbondedForce", "CustomGBForce", "PeriodicTorsionForce"} <= aldp.energies.terms.keys()
    assert "CMMotionRemover" not in aldp.energies.terms


def test_the_minimum_is_one():
    """No force is left, and small displacements cost energy."""
    mol = molecule("aldp")
    x, energy = nearest_minimum(mol.system, mol.positions)
    assert energy == pytest.approx(potential_energy(mol.system, x))
    assert energy < potential_energy(mol.system, mol.positions) - 10.0
    generator = np.random.default_rng(0)
    for _ in range(5):
        assert potential_energy(mol.system, x + 0.002 * generator.standard_normal(x.shape)) > energy


def test_speeds_are_positive_and_the_backend_is_named(aldp):
    assert aldp.speed.backend == "torch kernels" and aldp.speed.threads == torch.get_num_threads()
    assert 0.0 < aldp.speed.batched < np.inf and 0.0 < aldp.speed.openmm < np.inf


def test_a_speed_is_that_of_what_is_timed():
    """A millisecond for each conformation: at most a thousand a second, however busy the machine is."""
    sizes = []

    def evaluate(x: np.ndarray) -> None:
        sizes.append(len(x))
        time.sleep(1e-3 * len(x))

    assert 10.0 < _conformations_per_second(evaluate, np.zeros((5, 3))) <= 1000.0
    assert sizes[0] == 16 and sizes[-1] <= 256  # batches grow until they can be timed, and no further


def test_the_harmonic_standardisation_makes_the_energy_half_a_square(aldp):
    """With the soft torsions held, U - U_min = RT z^2 / 2 to second order: checked along single coordinates."""
    mol, chart = aldp.molecule, aldp.chart
    x, energy = nearest_minimum(mol.system, mol.positions)
    z = chart.to_standard(torch.from_numpy(x)[None])
    np.testing.assert_allclose(z[0, : chart.n_stiff].numpy(), 0.0, atol=1e-6)
    for k in (0, 25, 45, 54):
        ends = []
        for size in (-0.1, 0.1):
            at = z.clone()
            at[0, k] += size
            ends.append(potential_energy(mol.system, chart.to_natural(at)[0][0].numpy()) - energy)
        assert np.mean(ends) * mol.beta == pytest.approx(0.5 * 0.1**2, rel=0.05), chart.names[k]


def test_the_harmonic_covariance_is_that_of_short_md(aldp):
    """Spreads of bonds and angles: 0.3 ps of 64 conformations from the minimum give them to a tenth or so."""
    mol = aldp.molecule
    energy = TorchEnergy(mol, compile=False)
    x = torch.from_numpy(nearest_minimum(mol.system, mol.positions)[0]).float().expand(64, -1, -1).contiguous()
    dynamics = Langevin(energy, mol.masses, mol.temperature, friction=20.0)
    generator = torch.Generator().manual_seed(0)
    frames = []
    state = dynamics.step(dynamics.start(x, generator), 150, generator)
    dynamics.step(state, 150, generator, on_frame=lambda k, s: frames.append(s.positions), frame_interval=10)
    measured = Chart(mol).fit(torch.cat(frames)).covariance.diagonal().sqrt()
    ratio = (measured / aldp.chart.covariance.diagonal().sqrt())[: 2 * mol.n_atoms - 3]
    assert float(ratio.median()) == pytest.approx(1.0, abs=0.1)
    assert bool(((ratio > 0.6) & (ratio < 1.7)).all())


def test_the_untrained_sampler_is_stated_and_finite(aldp):
    found = aldp.standardisation
    assert found.equipartition == pytest.approx(0.5 * 55 / aldp.molecule.beta)
    assert 0.8 * found.equipartition < found.held < 1.3 * found.equipartition
    assert found.held < found.median < 1000.0 and found.inside > 0.95 and 1.0 < found.condition_number < 100.0


@pytest.mark.usefixtures("no_stopwatch")
def test_the_same_question_has_the_same_answer(aldp):
    again = understand("aldp")
    assert again.standardisation == aldp.standardisation and again.energies == aldp.energies


def test_what_is_printed_holds_what_was_found(aldp):
    text = "\n".join(describe(aldp, "cpu"))
    for words in (
        "aldp: 22 atoms, 21 bonds, charge +0 e, 300 K, implicit solvent (CustomGBForce)",
        "residues: ACE ALA NME",
        "stereocentres: ALA2-CA (L); amides: 2 trans, 0 cis",
        "55 on the line, 5 soft torsions",
        "    phi   ACE1-C ALA2-N ALA2-CA ALA2-C",
        "    psi   ALA2-N ALA2-CA ALA2-C NME3-N",
        "source: openmmtools' AlanineDipeptideImplicit",
        f"{aldp.energies.total:.3f} kJ/mol",
        "schedule (preset cpu): 5 torsions one by one, then 12 steps of diffusion; 15 minutes of training",
        "no warnings",
    ):
        assert words in text, words
    assert text.count("    rotor ") == 3


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("long", "then 12 steps of diffusion; 60 minutes of training, of these 6% denoising; 10,000 samples"),
        ("paper", "schedule (preset paper): 128 steps of diffusion; 240 minutes of training"),
        ("smoke", "then 6 steps of diffusion; 60 updates of denoising and 40 of balance; 512 samples"),
    ],
)
def test_the_schedule_told_is_that_of_the_preset(aldp, preset, words, monkeypatch, capsys):
    monkeypatch.setattr("molsampler.preparation.check.understand", lambda system, platform, device: aldp)
    assert cli.main(["check", "aldp", "--preset", preset]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("schedule")]
    assert words in line


@pytest.mark.usefixtures("no_stopwatch")
def test_a_molecule_without_a_minimum_gets_a_warning_and_no_standardisation(aldp, monkeypatch):
    monkeypatch.setattr("molsampler.preparation.check.nearest_minimum", lambda system, x: (x, 0.0))
    mol = molecule("aldp")
    bent = mol.positions.copy()
    bent[5] += [0.15, 0.15, 0.1]  # the oxygen of ACE far from where it belongs
    monkeypatch.setattr(
        "molsampler.preparation.check.load_molecule", lambda name, say: dataclasses.replace(mol, positions=bent)
    )
    found = understand("aldp")
    assert found.standardisation is None
    assert any("does not relax to a minimum" in warning for warning in found.warnings)
    assert "condition number" not in "\n".join(describe(found, "cpu"))


@pytest.mark.usefixtures("no_stopwatch")
def test_a_molecule_too_large_to_wait_for_is_told(monkeypatch):
    monkeypatch.setattr("molsampler.preparation.check._PATIENCE", 0.0)
    found = understand("aldp")
    assert found.standardisation is None
    (warning,) = found.warnings
    assert "nothing is said on standardisation: the curvature would take" in warning


def test_six_residues_are_understood_in_time(tmp_path, monkeypatch, capsys):
    """ACE-PRO-LEU-TRP-LYS-GLN-GLN-NME, 125 atoms, on one thread. Machines differ, so time is counted in evaluations of
    its energy by OpenMM's Reference platform."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "six.pdb").write_text(capped_segment(21, 26))
    make_system("six", Request(pdb=tmp_path / "six.pdb", forcefield=FORCE_FIELD), say=lambda text: None)
    begun = time.process_time()
    assert cli.main(["check", "six"]) == 0
    took = time.process_time() - begun
    six = load_molecule("six")
    reference = ContextEvaluator(openmm.XmlSerializer.serialize(six.system), "Reference", {})
    begun = time.process_time()
    reference.evaluate(np.repeat(six.positions[None], 40, 0), True)
    evaluation = (time.process_time() - begun) / 40
    assert took < 4000 * evaluation  # the curvature alone takes 680; 16 s where one takes 4 ms
    printed = capsys.readouterr().out
    assert "125 atoms, 127 bonds, charge +1 e" in printed and "7 trans, 0 cis" in printed
    assert "chi4  LYS5-CG LYS5-CD LYS5-CE LYS5-NZ" in printed and "TRP4-CA (L)" in printed
    median = float(printed.split("median energy ")[1].split()[0])
    assert 0.0 < median < float("inf")


# facts


def test_a_mirror_image_has_d_amino_acids_and_a_turned_amide_is_cis():
    mol = molecule("aldp")
    assert facts.stereocentres(mol) == ["ALA2-CA (L)"] and facts.oddities(mol) == []
    mirrored = dataclasses.replace(mol, positions=mol.positions * [1.0, 1.0, -1.0])
    assert facts.stereocentres(mirrored) == ["ALA2-CA (D)"]
    assert "ALA2-CA (D): a D amino acid" in facts.oddities(mirrored)[0]
    assert facts.amides(mol) == [("ACE1-C ALA2-N", "trans"), ("ALA2-C NME3-N", "trans")]
    turned = mol.positions.copy()
    turned[[18, 17]] = turned[[17, 18]]  # NME's hydrogen and carbon on the nitrogen change places
    assert facts.amides(dataclasses.replace(mol, positions=turned))[1] == ("ALA2-C NME3-N", "cis")


def test_stereocentres_need_four_different_neighbours(tmp_path):
    """Threonine's CB is one, leucine's CG and the methyl groups are none."""
    (tmp_path / "input.pdb").write_text(capped_segment(13, 14))
    make_system("p", Request(pdb=tmp_path / "input.pdb", forcefield=FORCE_FIELD), tmp_path, say=lambda text: None)
    mol = load_molecule(tmp_path / "p")
    assert facts.stereocentres(mol) == ["THR2-CA (L)", "THR2-CB", "ARG3-CA (L)"]
    assert facts.net_charge(mol) == pytest.approx(1.0, abs=1e-6)
    assert facts.residues(mol) == "ACE THR ARG NME"


def test_a_ring_with_other_conformers_is_told():
    (oddity,) = facts.oddities(load_molecule("cyclo_ala_gly"))
    assert "the ring of 12 atoms with ALA1-N ALA1-CA ALA1-C may have other conformers" in oddity


def test_charge_in_vacuum_is_told():
    mol = molecule("aldp")
    system = openmm.XmlSerializer.clone(mol.system)
    for k in reversed(range(system.getNumForces())):
        if "GB" in type(system.getForce(k)).__name__:
            system.removeForce(k)
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charge, sigma, epsilon = force.getParticleParameters(0)
    force.setParticleParameters(0, charge._value + 1.0, sigma, epsilon)
    charged = dataclasses.replace(mol, system=system)
    assert facts.solvent(charged) == "vacuum" and "implicit" in facts.solvent(mol)
    assert any("a charge of +1 e in vacuum" in oddity for oddity in facts.oddities(charged))
