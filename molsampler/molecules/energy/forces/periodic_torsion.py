"""OpenMM's PeriodicTorsionForce: k (1 + cos(n phi - phase))."""

from __future__ import annotations

import math

import openmm
import torch
from openmm import unit
from torch import Tensor

from molsampler.molecules.energy.forces.gather import AtomTuples
from molsampler.molecules.energy.forces.geometry import dihedral_cosine_sine
from molsampler.molecules.energy.forces.term import PairDistances, Term, refuse_periodic


class PeriodicTorsion(Term):
    """Torsions of an `openmm.PeriodicTorsionForce` among n_atoms atoms.

    Terms over the same four atoms are one Fourier series in their dihedral, evaluated by the recurrence of cos(n phi)
    and sin(n phi): no inverse trigonometric function, nothing to wrap.
    """

    def __init__(self, force: openmm.PeriodicTorsionForce, n_atoms: int) -> None:
        super().__init__()
        refuse_periodic(force)
        series: dict[tuple[int, ...], list[tuple[int, float, float]]] = {}
        for k in range(force.getNumTorsions()):
            *atoms, n, phase, constant = force.getTorsionParameters(k)
            term = (n, phase.value_in_unit(unit.radian), constant.value_in_unit(unit.kilojoule_per_mole))
            if term[2] != 0.0:
                series.setdefault(tuple(atoms), []).append(term)
        self.empty = not series
        if self.empty:
            return
        self.order = max(n for terms in series.values() for n, _, _ in terms)
        self.atoms = AtomTuples(list(series), n_atoms)
        constant = torch.zeros(1, dtype=torch.float64)
        cosine = torch.zeros(self.order + 1, len(series), 1, dtype=torch.float64)
        sine = torch.zeros_like(cosine)
        for q, terms in enumerate(series.values()):
            for n, phase, k in terms:
                constant += k
                cosine[n, q] += k * math.cos(phase)
                sine[n, q] += k * math.sin(phase)
        # Phases of 0 and 180 degrees have a sine of 1e-16: rounding, not physics; without it half of the work is gone.
        sine[sine.abs() < 1e-12] = 0.0
        self.has_sine = [bool(sine[n].any()) for n in range(self.order + 1)]
        self.register_buffer("constant", constant + cosine[0].sum())
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)

    def forward(self, x: Tensor, pairs: PairDistances | None) -> Tensor:
        if self.empty:
            return x.new_zeros(x.shape[-1])
        c, s = dihedral_cosine_sine(self.atoms(x))
        cos_n, sin_n, total = c, s, 0.0  # cos(n phi), sin(n phi) with n = 1
        for n in range(1, self.order + 1):
            total = total + self.cosine[n] * cos_n
            if self.has_sine[n]:
                total = total + self.sine[n] * sin_n
            cos_n, sin_n = c * cos_n - s * sin_n, s * cos_n + c * sin_n
        return total.sum(0) + self.constant
