"""Which OpenMM force is translated by which term."""

from __future__ import annotations

from collections.abc import Callable

import openmm

from molsampler.molecules.energy.forces.cmap_torsion import CMAPTorsion
from molsampler.molecules.energy.forces.custom_angle import CustomAngle
from molsampler.molecules.energy.forces.custom_bond import CustomBond
from molsampler.molecules.energy.forces.custom_external import CustomExternal
from molsampler.molecules.energy.forces.custom_gb import CustomGB
from molsampler.molecules.energy.forces.custom_nonbonded import CustomNonbonded
from molsampler.molecules.energy.forces.custom_torsion import CustomTorsion
from molsampler.molecules.energy.forces.gbsa_obc import GBSAOBC
from molsampler.molecules.energy.forces.harmonic_angle import HarmonicAngle
from molsampler.molecules.energy.forces.harmonic_bond import HarmonicBond
from molsampler.molecules.energy.forces.nonbonded import Nonbonded
from molsampler.molecules.energy.forces.periodic_torsion import PeriodicTorsion
from molsampler.molecules.energy.forces.rb_torsion import RBTorsion
from molsampler.molecules.energy.forces.term import Term, UnsupportedForce

TERMS: dict[type, Callable[..., Term]] = {
    openmm.CMAPTorsionForce: CMAPTorsion,
    openmm.CustomAngleForce: CustomAngle,
    openmm.CustomBondForce: CustomBond,
    openmm.CustomExternalForce: CustomExternal,
    openmm.CustomGBForce: CustomGB,
    openmm.CustomNonbondedForce: CustomNonbonded,
    openmm.CustomTorsionForce: CustomTorsion,
    openmm.GBSAOBCForce: GBSAOBC,
    openmm.HarmonicAngleForce: HarmonicAngle,
    openmm.HarmonicBondForce: HarmonicBond,
    openmm.NonbondedForce: Nonbonded,
    openmm.PeriodicTorsionForce: PeriodicTorsion,
    openmm.RBTorsionForce: RBTorsion,
}
IGNORED = (openmm.CMMotionRemover,)  # changes velocities, not energies


def translate_force(force: openmm.Force, n_atoms: int) -> Term | None:
    """The torch term of one force; None for one that has no energy. Raises UnsupportedForce, naming the force."""
    if isinstance(force, IGNORED) or _is_empty(force):
        return None
    for kind, term in TERMS.items():
        if isinstance(force, kind):
            return term(force, n_atoms)
    raise UnsupportedForce(f"{type(force).__name__} (covered: {', '.join(sorted(k.__name__ for k in TERMS))})")


def _is_empty(force: openmm.Force) -> bool:
    """Whether the force has nothing to act on; force-field readers leave such ones behind."""
    for word in ("Bonds", "Angles", "Torsions", "Particles"):
        count = getattr(force, f"getNum{word}", None)
        if count is not None:
            return count() == 0
    return False
