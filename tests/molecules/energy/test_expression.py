"""OpenMM's expression language: every function and every precedence against OpenMM itself."""

from __future__ import annotations

import re

import numpy as np
import openmm
import pytest
import torch

from molsampler.molecules.energy.forces.expression import translate
from molsampler.molecules.energy.forces.term import UnsupportedForce
from molsampler.molecules.energy.torch_check import reference_terms

EXPRESSIONS = [
    "-x^2 + 2^-x",
    "2-3-x*4/5/x",
    "x^2^0.5",
    "x^-3 - y^0.5*x^2.5",
    "-(x-y)*-2",
    "1.5e-1*x + .5*y - 2.E+0",
    "sqrt(x)+exp(-x)+log(y)",
    "sin(x)*cos(y)/tan(x)",
    "sec(x)+csc(x)+cot(y)",
    "asin(x/4)+acos(y/4)+atan(x)+atan2(x,y)",
    "atan2(x,2)-atan2(1,y)",
    "sinh(x)-cosh(y)+tanh(x*y)",
    "erf(x)-erfc(y)",
    "step(x-1)+step(1-x)*3+delta(x)",
    "square(x)+cube(y)+recip(x)",
    "min(x,y)-max(x,1)+min(2,y)+max(1,2)",
    "abs(x-y)+floor(3*x)+ceil(2*y)",
    "select(step(x-y), x, 2*y) + select(x-x, 1, 5) + select(0, x, y)",
    "a*b; a=b+x; b=y^2",
    "a; a=b*x ; b = 3 ;",
    "3",
    "2*(3+4)^2*x",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_value_and_derivative_are_those_of_openmm(text):
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomExternalForce(text)
    force.addParticle(0, [])
    system.addForce(force)
    points = np.array([[0.3, 1.7, 0.0], [1.9, 0.8, 0.0], [0.7, 0.9, 0.0]])
    energies, forces = reference_terms(system, points[:, None, :])
    x, y = (torch.tensor(points[:, k], requires_grad=True) for k in (0, 1))
    value = translate(text, ["x", "y"])(x, y)
    np.testing.assert_allclose(value.detach().numpy(), energies[0], rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(value.sum() + 0.0 * (x + y).sum(), (x, y))
    np.testing.assert_allclose(-gradients[0].numpy(), forces[0, :, 0, 0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(-gradients[1].numpy(), forces[0, :, 0, 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "text, words",
    [
        ("x+unknown", "unknown name 'unknown'"),
        ("gamma(x)", "unknown function 'gamma'"),
        ("x+", "ends too early"),
        ("(x", r"'\)' is missing"),
        ("x y", "unexpected"),
        ("x; 3", "no definition"),
        ("x $ 2", "unexpected"),
    ],
)
def test_what_is_not_understood_is_quoted(text, words):
    with pytest.raises(UnsupportedForce, match=words):
        translate(text, ["x"])


@pytest.mark.parametrize("text", ["x/w", "w^-2*x", "x^(1/w)", "(w-1)^0.5*x", "(w-1)^x", "10^(400+w)*x"])
def test_constants_that_are_no_number_are_quoted(text):
    with pytest.raises(UnsupportedForce, match=re.escape(f"expression '{text}': its constants {{'w': 0.0}} give no")):
        translate(text, ["x"], {"w": 0.0})


def test_equal_parts_are_computed_once():
    module = translate("exp(x*y)+1/exp(x*y)", ["x", "y"])
    assert sum(node.target is torch.exp for node in module.graph.nodes) == 1
