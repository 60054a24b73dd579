"""One walk over the energy contract, for every implementation and for two molecules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy, available_platforms
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.molecule import Molecule
from tests.molecules.energy.energy_cases import MOLECULES, molecule, reference, structures

DOUBLE, SINGLE = (1e-6, 1e-9), (1e-3, 1e-5)  # absolute in kJ/mol (forces: 100 times that in kJ/mol/nm), relative

IMPLEMENTATIONS: dict[str, tuple[Callable[[Molecule], Energy], tuple[float, float]]] = {
    "torch-double": (lambda m: TorchEnergy(m, dtype=torch.float64, compile=False), DOUBLE),
    "torch-single": (lambda m: TorchEnergy(m, dtype=torch.float32, compile=False), SINGLE),
    "torch-compiled": (lambda m: TorchEnergy(m, dtype=torch.float32, compile=True), SINGLE),
    "torch-cuda": (lambda m: TorchEnergy(m, dtype=torch.float32, device="cuda", compile=True), SINGLE),
    "openmm-reference": (lambda m: OpenMMEnergy(m, "Reference", workers=2), DOUBLE),
    "openmm-cpu": (lambda m: OpenMMEnergy(m, "CPU", workers=2), SINGLE),
    "openmm-cuda": (lambda m: OpenMMEnergy(m, "CUDA", precision="mixed"), SINGLE),
}


def _cases() -> list:
    cases = []
    for implementation in IMPLEMENTATIONS:
        for name in MOLECULES:
            marks = [pytest.mark.gpu] if implementation.endswith("cuda") else []
            if implementation == "torch-compiled" and name != "aldp":
                marks.append(pytest.mark.slow)  # half a minute of compilation each
            cases.append(pytest.param((implementation, name), marks=marks, id=f"{implementation}-{name}"))
    return cases


@pytest.fixture(scope="module", params=_cases())
def case(request):
    implementation, name = request.param
    make, tolerance = IMPLEMENTATIONS[implementation]
    if implementation == "openmm-cuda" and "CUDA" not in available_platforms():
        pytest.skip("OpenMM has no CUDA platform here")
    torch.set_num_threads(1)
    mol = molecule(name)
    energy = make(mol)
    yield mol, energy, tolerance
    energy.close()


def close_to(value, expected, tolerance, scale: float = 1.0) -> None:
    absolute, relative = tolerance
    size = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(value), expected, rtol=0.0, atol=scale * absolute + relative * size)


@pytest.mark.parametrize("count", [1, 7, 65])
def test_values_and_forces_are_those_of_the_reference_platform(case, count):
    mol, energy, tolerance = case
    x = structures(mol, count, seed=count)
    expected, expected_forces = reference(mol, x)
    value, forces = energy.energy_and_forces(x)
    assert value.shape == (count,) and forces.shape == (count, mol.n_atoms, 3)
    close_to(value, expected, tolerance)
    close_to(forces, expected_forces, tolerance, scale=100.0)
    close_to(energy.energy(x), expected, tolerance)


def test_an_empty_batch(case):
    mol, energy, _ = case
    value, forces = energy.energy_and_forces(torch.zeros(0, mol.n_atoms, 3))
    assert value.shape == (0,) and forces.shape == (0, mol.n_atoms, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_positions(case, dtype):
    mol, energy, _ = case
    value, forces = energy.energy_and_forces(structures(mol, 3).to(dtype))
    assert value.dtype == forces.dtype == dtype


def test_the_order_in_memory_does_not_matter(case):
    mol, energy, _ = case
    x = structures(mol, 4)
    strided = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    torch.testing.assert_close(energy.energy(strided), energy.energy(x), rtol=0, atol=0)


def test_forces_are_finite_differences_of_the_energy(case):
    mol, energy, tolerance = case
    x = structures(mol, 1, seed=3)
    _, forces = energy.energy_and_forces(x)
    # A step at which rounding in single (1e-3 kJ/mol) and the next order of the expansion both stay well below 1 %.
    step = 1e-5 if tolerance is DOUBLE else 3e-4
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        up, down = energy.energy(torch.cat((x + step * direction, x - step * direction)))
        slope = -(forces * direction).sum()
        size = forces.norm().item()
        assert (up - down).item() / (2 * step) == pytest.approx(
            slope.item(), abs=1e-5 * size if tolerance is DOUBLE else 0.02 * size
        )


def test_backward_is_minus_the_forces_with_the_incoming_weights(case):
    mol, energy, _ = case
    x = structures(mol, 5).requires_grad_()
    _, forces = energy.energy_and_forces(x)
    weights = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    (energy(x) * weights).sum().backward()
    torch.testing.assert_close(x.grad, -weights[:, None, None] * forces, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_is_refused(case):
    mol, energy, _ = case
    x = structures(mol, 2).requires_grad_()
    for loss in ((energy(x) ** 2).sum(), energy(x).sum()):  # also where the incoming gradient is a constant
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_position_that_is_not_finite_harms_nobody_else(case, bad):
    mol, energy, _ = case
    x = structures(mol, 6)
    expected, expected_forces = energy.energy_and_forces(x)
    x[2, 1, 0] = bad
    before = energy.counter.non_finite
    value, forces = energy.energy_and_forces(x)
    assert value[2].item() == float("inf") and not forces[2].any()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(value[others], expected[others], rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(forces[others], expected_forces[others], rtol=1e-5, atol=0.1)
    assert energy.counter.non_finite == before + 1


def test_atoms_on_top_of_each_other_are_infinitely_high_not_nan(case):
    mol, energy, _ = case
    x = structures(mol, 3)
    x[1, 0] = x[1, -1]
    value, forces = energy.energy_and_forces(x)
    assert value[1].item() == float("inf") and torch.isfinite(value[[0, 2]]).all()
    assert torch.isfinite(forces).all()


def test_a_clash_is_large_and_is_not_clipped(case):
    mol, energy, tolerance = case
    x = structures(mol, 2)
    x[1, 0] = x[1, -1] + torch.tensor([0.03, 0.0, 0.0], dtype=torch.float64)
    expected, _ = reference(mol, x)
    value = energy.energy(x)
    assert expected[1] > 1e5
    assert value[1].item() == pytest.approx(expected[1], rel=1e-3 if tolerance is SINGLE else 1e-9)


def test_every_evaluation_is_counted_by_purpose(case):
    mol, energy, _ = case
    before = dict(energy.counter.by_purpose)
    with energy.counter.purpose("md"):
        energy.energy(structures(mol, 3))
        energy(structures(mol, 2).requires_grad_()).sum().backward()
    energy.energy(structures(mol, 1))
    assert energy.counter.by_purpose["md"] == before.get("md", 0) + 5
    assert energy.counter.by_purpose["analysis"] == before.get("analysis", 0) + 1


def test_a_wrong_shape_is_refused(case):
    mol, energy, _ = case
    with pytest.raises(ValueError, match="expected"):
        energy.energy(torch.zeros(2, mol.n_atoms + 1, 3))
