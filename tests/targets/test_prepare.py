"""The short MD run that standardises the chart: where it is hot first, and that a ring then shows its conformers."""

from __future__ import annotations

import mdtraj as md
import pytest
import torch

from molsampler.molecules.chart import Chart
from molsampler.molecules.system import load_molecule
from molsampler.molecules.torch_energy import TorchEnergy
from molsampler.targets.prepare import SetupConfig, _short_md

BRIEF = SetupConfig(chains=8, burn_in=0.005, length=0.01, interval=0.002, ring_burn_in=0.02)


@pytest.mark.parametrize(("name", "steps"), [("pro", 35), ("cyclo_ala_gly", 35), ("paracetamol", 15), ("aldp", 15)])
def test_only_flexible_rings_are_heated(name, steps):
    molecule = load_molecule(name)
    energy = TorchEnergy(molecule, compile=False)
    frames = _short_md(molecule, energy, BRIEF, torch.Generator().manual_seed(0), Chart(molecule))
    assert energy.counter.by_purpose["md"] == 8 * (steps + 1)  # one for the start
    assert frames.shape == (5 * 8, molecule.n_atoms, 3)


def test_hot_frames_of_the_other_hand_are_left_out():
    """At 20,000 K amides turn over and centres invert within half a picosecond."""
    molecule = load_molecule("pro")
    setup = SetupConfig(chains=16, burn_in=0.1, length=0.02, interval=0.01, ring_burn_in=0.5, ring_temperature=20_000.0)
    chart = Chart(molecule)
    frames = _short_md(molecule, TorchEnergy(molecule, compile=False), setup, torch.Generator().manual_seed(0), chart)
    assert len(frames) < 32 and bool(chart.stereo.matches(frames).all())


@pytest.mark.slow
def test_a_cyclic_peptide_shows_both_of_its_conformers():
    """Glycine in cyclo-(Ala-Gly-Ala-Gly) is near phi = 90 degrees with 16 % at 300 K; 2 ps at 300 K hardly get there."""
    molecule = load_molecule("cyclo_ala_gly")
    topology = md.Topology.from_openmm(molecule.topology)
    share = {}
    for picoseconds in (0.0, 4.0):
        setup = SetupConfig(ring_burn_in=picoseconds)
        frames = _short_md(molecule, TorchEnergy(molecule), setup, torch.Generator().manual_seed(0), Chart(molecule))
        phi = md.compute_phi(md.Trajectory(frames.numpy(), topology))[1]
        share[picoseconds] = float(((phi > 0.5) & (phi < 2.6)).mean())
    assert share[0.0] < 0.005 and 0.02 < share[4.0] < 0.6
