"""OpenMM's GBSAOBCForce without cutoff: OBC2 implicit solvent with the ACE surface-area term, as a CustomGBForce.

Onufriev, Bashford and Case, Proteins 55, 383 (2004), model II.
"""

from __future__ import annotations

import math

import openmm
from openmm import unit

from molsampler.molecules.energy.forces.custom_gb import CustomGB
from molsampler.molecules.energy.forces.nonbonded import COULOMB
from molsampler.molecules.energy.forces.term import refuse_cutoff

_OFFSET = 0.009  # nm, what OBC takes off every radius
_PROBE = 0.14  # nm, radius of a water molecule


class GBSAOBC(CustomGB):
    """An `openmm.GBSAOBCForce` with NoCutoff among n_atoms atoms."""

    def __init__(self, force: openmm.GBSAOBCForce, n_atoms: int) -> None:
        refuse_cutoff(force)
        super().__init__(as_custom_gb(force), n_atoms)


def as_custom_gb(force: openmm.GBSAOBCForce) -> openmm.CustomGBForce:
    """The same energy, written out in expressions."""
    custom = openmm.CustomGBForce()
    for name in ("charge", "radius", "offset", "scaled"):
        custom.addPerParticleParameter(name)
    for i in range(force.getNumParticles()):
        charge, radius, scale = force.getParticleParameters(i)
        radius = radius.value_in_unit(unit.nanometer)
        offset = radius - _OFFSET
        custom.addParticle([charge.value_in_unit(unit.elementary_charge), radius, offset, scale * offset])
    single, pair = openmm.CustomGBForce.SingleParticle, openmm.CustomGBForce.ParticlePairNoExclusions
    custom.addComputedValue(
        "I",
        "select(step(r+scaled2-offset1), 0.5*(1/L-1/U+0.25*(r-scaled2^2/r)*(1/U^2-1/L^2)+0.5*log(L/U)/r+inside), 0);"
        "inside=select(step(scaled2-r-offset1), 2*(1/offset1-1/L), 0);"
        "U=r+scaled2; L=max(offset1, abs(r-scaled2))",
        pair,
    )
    custom.addComputedValue(
        "B", "1/(1/offset-tanh(psi-0.8*psi^2+4.85*psi^3)/radius); psi=I*offset", single
    )  # fmt: skip
    screening = -COULOMB * (1.0 / force.getSoluteDielectric() - 1.0 / force.getSolventDielectric())
    surface = 4.0 * math.pi * force.getSurfaceAreaEnergy().value_in_unit_system(unit.md_unit_system)
    custom.addEnergyTerm(f"{0.5 * screening!r}*charge^2/B + {surface!r}*(radius+{_PROBE})^2*(radius/B)^6", single)
    custom.addEnergyTerm(
        f"{screening!r}*charge1*charge2/sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))", pair
    )  # fmt: skip
    return custom
