"""Each translated force alone against OpenMM's Reference platform, on a made System of eight particles."""

from __future__ import annotations

import math

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmm.app.internal.customgbforces import (
    GBSAGBn2Force,
    GBSAGBnForce,
    GBSAHCTForce,
    GBSAOBC1Force,
    GBSAOBC2Force,
)

from molsampler.molecules.energy.forces.registry import translate_force
from molsampler.molecules.energy.forces.term import PairDistances, UnsupportedForce
from molsampler.molecules.energy.torch_check import energy_and_gradient, reference_terms
from molsampler.molecules.energy.torch_energy import Potential

N = 8
DIHEDRALS = [(0, 1, 2, 3), (1, 2, 3, 4), (5, 3, 2, 1), (7, 0, 4, 6)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def structures(rng) -> np.ndarray:
    """(5, N, 3) nm: corners of a box of 0.25 nm, well shaken, so that no pair is closer than a contact."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    return 0.25 * corners + rng.normal(scale=0.03, size=(5, N, 3))


def system_of(force: openmm.Force) -> openmm.System:
    system = openmm.System()
    for _ in range(N):
        system.addParticle(12.0)
    system.addForce(openmm.XmlSerializer.clone(force))  # a System owns and frees its forces
    return system


def assert_same(force: openmm.Force, structures: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """The torch term of `force` gives OpenMM's energies and forces; returns OpenMM's energies."""
    expected, expected_forces = (a[0] for a in reference_terms(system_of(force), structures))
    term = translate_force(force, N).to(torch.float64)
    x = torch.from_numpy(structures).permute(2, 1, 0).contiguous()
    energy, gradient = energy_and_gradient(lambda y: term(y, PairDistances.of(y)), x)
    assert np.abs(expected).max() > 1e-3 and np.abs(expected_forces).max() > 1e-2, "the test would see nothing"
    np.testing.assert_allclose(energy.numpy(), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    np.testing.assert_allclose(
        -gradient.permute(2, 1, 0).numpy(),
        expected_forces,
        rtol=tolerance,
        atol=tolerance * np.abs(expected_forces).max(),
    )
    return expected


def test_harmonic_bond(structures, rng):
    force = openmm.HarmonicBondForce()
    for i in range(N - 1):
        force.addBond(i, i + 1, rng.uniform(0.1, 0.3), rng.uniform(100, 3000))
    force.addBond(0, 5, 0.2, 500.0)
    assert_same(force, structures)


def test_harmonic_angle(structures, rng):
    force = openmm.HarmonicAngleForce()
    for i, j, k in [(0, 1, 2), (1, 2, 3), (5, 2, 7), (6, 0, 4)]:
        force.addAngle(i, j, k, rng.uniform(1.5, 2.2), rng.uniform(50, 500))
    assert_same(force, structures)


def test_periodic_torsion_with_odd_phases_and_high_periods(structures, rng):
    force = openmm.PeriodicTorsionForce()
    for atoms in DIHEDRALS:
        for n in (1, 2, 3, 4, 6):
            force.addTorsion(*atoms, n, rng.choice([0.0, math.pi, rng.uniform(-3, 3)]), rng.normal(scale=5))
    assert_same(force, structures)


def test_periodic_torsion_whose_constants_are_all_zero():
    force = openmm.PeriodicTorsionForce()
    force.addTorsion(0, 1, 2, 3, 2, 0.0, 0.0)
    x = torch.randn(3, N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert translate_force(force, N)(x, None).tolist() == [0.0, 0.0]


def test_rb_torsion(structures, rng):
    force = openmm.RBTorsionForce()
    for atoms in DIHEDRALS:
        force.addTorsion(*atoms, *rng.normal(scale=5, size=6))
    assert_same(force, structures)


def test_cmap_with_two_maps_of_different_size(structures, rng):
    force = openmm.CMAPTorsionForce()
    for size in (12, 7):
        force.addMap(size, rng.normal(scale=4, size=size * size))
    force.addTorsion(0, *DIHEDRALS[0], *DIHEDRALS[1])
    force.addTorsion(1, *DIHEDRALS[2], *DIHEDRALS[3])
    force.addTorsion(0, *DIHEDRALS[3], *DIHEDRALS[0])
    # Measured: OpenMM's Reference platform reads its maps about 1e-8 rad beside the dihedral, whatever the map.
    assert_same(force, structures, tolerance=1e-6)


def test_nonbonded_with_exceptions(structures, rng):
    force = openmm.NonbondedForce()
    for _ in range(N):
        force.addParticle(rng.normal(scale=0.4), rng.uniform(0.1, 0.25), rng.uniform(0.1, 1.0))
    force.addException(0, 1, 0.0, 0.1, 0.0)
    force.addException(2, 7, 0.1, 0.2, 0.3)
    assert_same(force, structures)


@pytest.mark.parametrize("n_offsets, method", [(1, openmm.NonbondedForce.NoCutoff), (0, openmm.NonbondedForce.PME)])
def test_nonbonded_that_is_not_covered_is_refused_by_name(n_offsets, method):
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(method)
    for _ in range(N):
        force.addParticle(0.1, 0.2, 0.3)
    if n_offsets:
        force.addGlobalParameter("scale", 1.0)
        force.addParticleParameterOffset("scale", 0, 0.1, 0.0, 0.0)
    with pytest.raises(UnsupportedForce, match="NonbondedForce"):
        translate_force(force, N)


def gb_radii(rng) -> list[float]:
    """Radii that the GBn tables know (nm)."""
    return list(rng.choice([0.12, 0.13, 0.15, 0.155, 0.17], size=N))


def test_gbsa_obc(structures, rng):
    force = openmm.GBSAOBCForce()
    force.setSoluteDielectric(2.0)
    for radius in gb_radii(rng):
        force.addParticle(rng.normal(scale=0.5), radius, rng.uniform(0.7, 0.9))
    assert_same(force, structures)


def test_gbsa_obc_with_an_atom_inside_another(structures, rng):
    """The branch of the OBC integral that molecules rarely reach."""
    force = openmm.GBSAOBCForce()
    for k in range(N):
        force.addParticle(rng.normal(scale=0.5), 0.05 if k % 2 else 0.5, 0.9)
    assert_same(force, structures)


@pytest.mark.parametrize("kind", [GBSAHCTForce, GBSAOBC1Force, GBSAOBC2Force, GBSAGBnForce, GBSAGBn2Force])
@pytest.mark.parametrize("surface, kappa", [("ACE", 0.0), (None, 0.7)])
def test_amber_gb_models(kind, surface, kappa, structures, rng):
    force = kind(SA=surface, kappa=kappa)
    for radius in gb_radii(rng):
        extra = [1.0, 0.8, 4.85] if kind is GBSAGBn2Force else []
        force.addParticle([rng.normal(scale=0.5), radius, rng.uniform(0.7, 0.9), *extra])
    force.finalize()
    assert_same(force, structures)


def test_custom_gb_with_exclusions_and_a_global_parameter(structures, rng):
    force = openmm.CustomGBForce()
    force.addPerParticleParameter("a")
    force.addGlobalParameter("scale", 1.7)
    force.addComputedValue("c", "a1*a2^2*exp(-r/w); w=0.2", openmm.CustomGBForce.ParticlePair)
    force.addComputedValue("d", "scale*sqrt(1+c^2)", openmm.CustomGBForce.SingleParticle)
    force.addEnergyTerm("a*d+x*y*z", openmm.CustomGBForce.SingleParticle)
    force.addEnergyTerm("d1*d2/r", openmm.CustomGBForce.ParticlePair)
    for _ in range(N):
        force.addParticle([rng.uniform(0.5, 1.5)])
    force.addExclusion(0, 3)
    force.addExclusion(5, 1)
    assert_same(force, structures)


def test_custom_bond(structures, rng):
    force = openmm.CustomBondForce("scale*depth*(1-exp(-width*(r-r0)))^2; r0=0.2")
    force.addGlobalParameter("scale", 1.3)
    force.addPerBondParameter("depth")
    force.addPerBondParameter("width")
    for i, j in [(0, 1), (2, 5), (3, 7)]:
        force.addBond(i, j, rng.uniform(10, 100, size=2))
    assert_same(force, structures)


def test_custom_angle(structures):
    force = openmm.CustomAngleForce("k*(theta-t0)^2+m*cos(3*theta)")
    for name in ("k", "t0", "m"):
        force.addPerAngleParameter(name)
    force.addAngle(0, 1, 2, [30.0, 1.9, 2.0])
    force.addAngle(4, 1, 7, [50.0, 1.7, -1.0])
    assert_same(force, structures)


def test_custom_torsion(structures):
    force = openmm.CustomTorsionForce("k*min(d, 2*pi-d)^2; d=abs(theta-t0); pi=3.141592653589793")
    force.addPerTorsionParameter("k")
    force.addPerTorsionParameter("t0")
    for k, atoms in enumerate(DIHEDRALS):
        force.addTorsion(*atoms, [10.0 + k, 0.5 * k])
    assert_same(force, structures)


def test_custom_external(structures):
    force = openmm.CustomExternalForce("k*(x^2+2*y^2+z)+sin(10*x)")
    force.addPerParticleParameter("k")
    for i in (1, 4, 6):
        force.addParticle(i, [3.0 * i])
    assert_same(force, structures)


def test_custom_nonbonded_with_exclusions_and_a_table(structures, rng):
    force = openmm.CustomNonbondedForce("acoef(t1,t2)/r^6 - q1*q2*step(0.3-r)*(0.3-r)^2 + e; e=sqrt(e1*e2)/cosh(r)")
    force.addTabulatedFunction("acoef", openmm.Discrete2DFunction(2, 2, [1e-4, 2e-4, 2e-4, 5e-4]))
    for name in ("q", "e", "t"):
        force.addPerParticleParameter(name)
    for k in range(N):
        force.addParticle([rng.normal(), rng.uniform(1, 2), k % 2])
    force.addExclusion(0, 1)
    force.addExclusion(6, 2)
    assert_same(force, structures)


def test_custom_nonbonded_with_overlapping_interaction_groups(structures):
    force = openmm.CustomNonbondedForce("a1*a2/r")
    force.addPerParticleParameter("a")
    for k in range(N):
        force.addParticle([1.0 + k])
    force.addInteractionGroup({0, 1, 2}, {2, 3, 4})
    force.addInteractionGroup({5}, {0, 6, 7})
    force.addInteractionGroup({0, 7}, {3, 5})  # (0, 3), (0, 5) and (5, 7) for the second time
    force.addExclusion(5, 6)
    assert_same(force, structures)


def test_custom_nonbonded_with_a_computed_value(structures):
    force = openmm.CustomNonbondedForce("b1*b2*exp(-3*r)")
    force.addPerParticleParameter("a")
    force.addComputedValue("b", "1+a^2")
    for k in range(N):
        force.addParticle([0.1 * k])
    assert_same(force, structures)


@pytest.mark.parametrize("count", [32, 33, 70])
def test_more_forces_than_openmm_has_groups_are_told_apart(count, structures, rng):
    system = openmm.System()
    for _ in range(N):
        system.addParticle(12.0)
    for k in range(count):
        force = openmm.HarmonicBondForce()
        force.addBond(k % N, (k + 1 + k // N) % N if k // N != N - 1 else (k + 2) % N, 0.1, 100.0 + k)
        system.addForce(force)
    energies, forces = reference_terms(system, structures)
    assert energies.shape == (count, len(structures)) and forces.shape == (count, *structures.shape)
    potential = Potential(system).double()
    x = torch.from_numpy(structures).permute(2, 1, 0).contiguous()
    for term, expected, pulls in zip(potential.terms, energies, forces, strict=True):
        energy, gradient = energy_and_gradient(lambda y, t=term: t(y, None), x)
        np.testing.assert_allclose(energy.numpy(), expected, rtol=1e-9)
        np.testing.assert_allclose(-gradient.permute(2, 1, 0).numpy(), pulls, rtol=1e-9, atol=1e-9)


def test_a_force_that_is_not_covered_is_named():
    force = openmm.GayBerneForce()
    for _ in range(N):
        force.addParticle(0.1, 0.1, -1, -1, 0.1, 0.1, 0.1, 1.0, 1.0, 1.0)
    with pytest.raises(UnsupportedForce, match="GayBerneForce"):
        Potential(system_of(force))


def test_continuous_tables_are_refused_by_name():
    force = openmm.CustomNonbondedForce("f(r)")
    force.addTabulatedFunction("f", openmm.Continuous1DFunction([0.0, 1.0, 0.5], 0.0, 3.0))
    for _ in range(N):
        force.addParticle([])
    with pytest.raises(UnsupportedForce, match="Continuous1DFunction 'f'"):
        translate_force(force, N)


def test_forces_without_terms_and_momentum_removers_add_nothing():
    assert translate_force(openmm.HarmonicBondForce(), N) is None
    assert translate_force(openmm.CMMotionRemover(), N) is None


def test_units_are_read_as_openmm_means_them():
    """Parameters given in angstrom, degrees and kcal/mol mean the same."""
    force = openmm.HarmonicBondForce()
    force.addBond(0, 1, 1.5 * unit.angstrom, 100.0 * unit.kilocalorie_per_mole / unit.angstrom**2)
    x = torch.zeros(3, N, 1, dtype=torch.float64)
    x[0, 1] = 0.25
    energy = translate_force(force, N)(x, None)
    assert energy.item() == pytest.approx(50.0 * unit.kilocalorie.conversion_factor_to(unit.kilojoule))
