"""What TorchEnergy adds to the contract: whole force fields, pieces, compilation, its refusal to be wrong."""

from __future__ import annotations

import functools

import openmm
import pytest
import torch
from openmm import app

from molsampler.basis import compilation
from molsampler.basis.compilation import CompiledOrEager
from molsampler.basis.errors import InputError
from molsampler.molecules.energy import choice as backend
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy
from molsampler.molecules.energy.torch_energy import (
    SMALLEST_PIECE,
    Potential,
    TorchEnergy,
    UnsupportedForce,
    best_piece,
)
from molsampler.molecules.molecule import Molecule
from tests.molecules.energy.energy_cases import DATA, molecule, structures


def with_system(system: openmm.System) -> Molecule:
    mol = molecule("aldp")
    return Molecule(mol.name, mol.topology, system, mol.positions, mol.temperature)


def with_extra_force(force: openmm.Force) -> Molecule:
    system = openmm.XmlSerializer.clone(molecule("aldp").system)
    system.addForce(force)
    return with_system(system)


def uncovered() -> Molecule:
    force = openmm.CustomCompoundBondForce(2, "distance(p1,p2)^2")
    force.addBond([0, 1], [])
    return with_extra_force(force)


@pytest.mark.parametrize(
    "names",
    [["amber19-all.xml", "implicit/gbn2.xml"], ["amber99sbildn.xml", "amber99_obc.xml"], ["amber14-all.xml"]],
    ids=["amber19-cmap-gbn2", "amber99-gbsaobc", "amber14-vacuum"],
)
def test_other_force_fields_agree_with_openmm(names):
    """The comparison at construction passes: CMAP, GBn2, native GBSA, vacuum."""
    pdb = app.PDBFile(str(DATA / "peptide" / "input.pdb"))
    system = app.ForceField(*names).createSystem(pdb.topology, nonbondedMethod=app.NoCutoff)
    mol = molecule("peptide")
    TorchEnergy(Molecule("peptide", pdb.topology, system, mol.positions, 300.0), compile=False)


def test_a_term_that_differs_from_openmm_is_refused_by_name(monkeypatch):
    from molsampler.molecules.energy.forces.harmonic_angle import HarmonicAngle

    right = HarmonicAngle.forward
    monkeypatch.setattr(HarmonicAngle, "forward", lambda self, x, pairs: right(self, x, pairs) * (1 + 1e-5))
    with pytest.raises(UnsupportedForce, match="HarmonicAngleForce"):
        TorchEnergy(molecule("aldp"), compile=False)


def test_an_uncovered_force_is_named_by_torch_and_served_by_openmm(capsys):
    with pytest.raises(InputError, match="CustomCompoundBondForce"):
        make_energy(uncovered(), backend="torch")
    energy = make_energy(uncovered(), platform="Reference")
    assert isinstance(energy, OpenMMEnergy)
    energy.close()
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "CustomCompoundBondForce" in told and "OpenMM (Reference)" in told


def test_torch_is_taken_where_it_covers_the_system(capsys):
    assert isinstance(make_energy(molecule("aldp"), compile=False), TorchEnergy)
    assert capsys.readouterr().out == ""


def test_a_device_or_a_backend_that_is_not_there(monkeypatch):
    with pytest.raises(InputError, match="device 'cuda:7' is not there; this machine has cpu"):
        make_energy(molecule("aldp"), device="cuda:7")
    with pytest.raises(InputError, match="backend 'jax'"):
        make_energy(molecule("aldp"), backend="jax")
    with pytest.raises(InputError, match="platform 'Metal'"):
        make_energy(molecule("aldp"), platform="Metal")
    monkeypatch.setattr(backend.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backend.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="cpu, cuda, cuda:0, cuda:1"):
        make_energy(molecule("aldp"), device="cuda:7")


@pytest.mark.parametrize("device", ["mps", "mps:0"])
def test_a_device_without_double_precision_is_refused(device, monkeypatch):
    monkeypatch.setattr(backend.torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(InputError, match=f"device '{device}' has no double precision, which is needed: choose cpu"):
        make_energy(molecule("aldp"), device=device)


@pytest.mark.parametrize("small", [64, 512])
@pytest.mark.parametrize("count", [1, 64, 100, 256, 257, 600, 1100])
def test_pieces_and_padding_change_nothing_and_have_their_sizes(count, small):
    """What a compiled kernel would be called with, on a GPU and on a CPU, seen by a kernel that is not compiled."""
    mol = molecule("aldp")
    energy = TorchEnergy(mol, dtype=torch.float64, compile=False)
    assert energy.small_piece == energy.piece
    energy.piece, energy.small_piece = 512, small
    x = structures(mol, count)
    expected, expected_forces = energy.energy_and_forces(x)
    sizes = []
    kernel = energy._kernel

    def watched(positions):
        sizes.append(positions.shape[-1])
        return kernel(positions)

    energy._kernel, energy.compiled = watched, True
    value, forces = energy.energy_and_forces(x)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(forces, expected_forces, rtol=1e-12, atol=1e-7)
    assert set(sizes) <= {small, 512}
    assert sum(sizes) <= max(2 * count, small)


def test_pieces_shrink_with_the_molecule_and_stay_a_power_of_two():
    cpu = torch.device("cpu")
    sizes = [best_piece(n, cpu) for n in (2, 22, 60, 500)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] == SMALLEST_PIECE
    assert all(size & (size - 1) == 0 for size in sizes)


def test_the_potential_is_differentiable_through_a_change_of_variables():
    """The potential is an ordinary module: gradients flow through whatever made its positions."""
    mol = molecule("aldp")
    potential = Potential(mol.system).double()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = structures(mol, 3).permute(2, 1, 0).contiguous()
    (slope,) = torch.autograd.grad(potential(scale * x).sum(), scale)
    step = 1e-6
    difference = (potential((1 + step) * x) - potential((1 - step) * x)).sum() / (2 * step)
    assert slope.item() == pytest.approx(difference.item(), rel=1e-6)


def test_without_a_compiler_it_runs_eager_and_says_so_once(monkeypatch, capsys):
    def broken(*args, **kwargs):
        def call(*_):
            raise torch._inductor.exc.InductorError(RuntimeError("no C++ compiler"), None)

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compilation, "_told", False)
    for _ in range(2):
        function = CompiledOrEager(lambda x: 2 * x)
        assert function(torch.ones(1)).item() == 2.0
        assert function(torch.ones(1)).item() == 2.0 and function.failed
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "no C++ compiler" in told and "eager" in told


def test_many_compiled_functions_do_not_crowd_each_other_out(monkeypatch):
    """The limit is that of the tracer, so no code need be generated."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    functions = [CompiledOrEager(lambda x, k=k: x * k) for k in range(10)]
    values = [function(torch.ones(3))[0].item() for function in functions]
    assert values == list(range(10)) and not any(function.failed for function in functions)
