"""The standardisation of a first chart on MD, by covariance and by forces."""

from __future__ import annotations

import torch

from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.preparation.short_md import standardise
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules.coordinates import chart_cases


def test_forces_bring_a_chart_of_few_frames_nearer_to_a_normal():
    """120 frames for 55 coordinates: judged by all frames, E|z + score|^2 is less than half of what their covariance
    gives, as if the chart had been refined by the target's own scores; each frame is evaluated once, as MD."""
    molecule, x = chart_cases.alanine_dipeptide(), chart_cases.langevin_frames()
    energy = TorchEnergy(molecule, dtype=torch.float64, compile=False)
    few = x[torch.linspace(0, len(x) - 1, 120).long()]

    def excess(chart: Chart) -> float:
        z = chart.to_standard(x)
        _, score = MoleculeTarget(molecule, chart, energy, compile=False).log_prob_and_score(z)
        return float((z + score)[:, : chart.n_stiff].square().mean())

    fitted = Chart(molecule, dtype=torch.float64).fit(few)
    before, plain = energy.counter.total, excess(fitted)
    booked = energy.counter.by_purpose["md"]
    made = Chart(molecule, dtype=torch.float64)
    assert standardise(made, molecule, energy, few) is made
    assert energy.counter.by_purpose["md"] - booked == len(few) and energy.counter.total - before == len(x) + len(few)
    assert excess(made) < 0.5 * plain
    z = fitted.to_standard(few)
    _, score = MoleculeTarget(molecule, fitted, energy, compile=False).log_prob_and_score(z)
    fitted.refine(z, score)
    torch.testing.assert_close(made.covariance, fitted.covariance, rtol=1e-6, atol=1e-12)
