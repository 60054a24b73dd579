"""select() whose other branch has no finite derivative: energies and forces are OpenMM's, on both sides."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch
from openmm.app.internal.customgbforces import GBSAOBC2Force

from molsampler.molecules.energy.forces.branches import _otherwise, _then
from molsampler.molecules.energy.forces.custom_gb import CustomGB
from molsampler.molecules.energy.forces.expression import translate
from molsampler.molecules.energy.torch_check import energy_and_gradient, reference_terms
from molsampler.molecules.energy.torch_energy import Potential

DISTANCES = [0.05, 0.1, 0.29, 0.31, 0.4, 1.0]  # nm; the branches change at 0.1 or 0.3
BRANCHES = [
    "100*select(step(0.3-r), (0.3-r)^1.5, 0)",
    "100*select(step(r-0.3), 0, (0.3-r)^1.5)",
    "select(step(0.3-r), sqrt(0.3-r)*r, log(r-0.3))",
    "select(step(r-0.1), y+1/y, r); y=r*root; root=sqrt(r-0.1)",
    "y*select(r-0.1, exp(y)*r, 3); y=1/(r-0.1)^2*delta(r-0.1)+r",
    "select(step(0.3-r), select(step(0.1-r), (0.1-r)^2.5, asin(r)), 2*r+a); a=select(step(r-0.3), sqrt(r-0.3), 7*r)",
    "select(step(0.5-r), r^2, r*exp(2000*r))+r",
]


def bonded(text: str) -> openmm.System:
    system = openmm.System()
    for _ in range(2):
        system.addParticle(12.0)
    force = openmm.CustomBondForce(text)
    force.addBond(0, 1, [])
    system.addForce(force)
    return system


@pytest.mark.parametrize("text", BRANCHES)
def test_a_branch_that_is_not_taken_leaves_the_forces_alone(text):
    system = bonded(text)
    structures = np.array([[[0.0, 0.0, 0.0], [0.6 * r, 0.0, 0.8 * r]] for r in DISTANCES])
    (expected,), (expected_forces,) = reference_terms(system, structures)
    finite = np.isfinite(expected)  # the branch that is taken, at the place where it begins
    assert finite.sum() >= 5
    energy, gradient = energy_and_gradient(Potential(system).double(), torch.from_numpy(structures).permute(2, 1, 0))
    np.testing.assert_allclose(energy.numpy()[finite], expected[finite], rtol=1e-9)
    forces = -gradient.permute(2, 1, 0).numpy()
    np.testing.assert_allclose(forces[finite], expected_forces[finite], rtol=1e-9, atol=1e-9)


def test_a_batch_on_both_sides_compiles():
    potential = Potential(bonded(BRANCHES[0]))
    x = torch.zeros(3, 2, len(DISTANCES))
    x[0, 1] = torch.tensor(DISTANCES)
    energy, gradient = torch.compile(potential.energy_and_gradient)(x)
    inside = (0.3 - x[0, 1]).clamp_min(0.0)
    torch.testing.assert_close(energy, 100.0 * inside**1.5)
    torch.testing.assert_close(gradient[0, 1], -150.0 * inside**0.5)


def test_branches_that_are_finite_everywhere_have_no_mask():
    """The kernels of implicit solvents, where every operation costs: all that they divide by is positive."""
    force = GBSAOBC2Force()
    for radius in (0.12, 0.15):
        force.addParticle([0.3, radius, 0.8])
    force.finalize()
    masks = {_then, _otherwise}
    assert not any(node.target in masks for value in CustomGB(force, 2).values for node in value.graph.nodes)
    assert any(node.target in masks for node in translate("select(step(x), 1/x, 0)", ["x"]).graph.nodes)
    assert not any(
        node.target in masks for node in translate("select(step(1-x), 1/x, 0)", ["x"], positive=["x"]).graph.nodes
    )
