from __future__ import annotations

import numpy as np
import pytest
from openmm import unit
from scipy import constants

from molsampler.basis.units import GAS_CONSTANT, thermal_energy


def test_the_gas_constant_is_that_of_scipy_and_openmm() -> None:
    assert pytest.approx(constants.gas_constant * 1e-3, rel=1e-15) == GAS_CONSTANT
    openmms = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
    assert pytest.approx(openmms, rel=1e-6) == GAS_CONSTANT


def test_thermal_energy_is_two_and_a_half_kilojoule_a_mole_at_room_temperature() -> None:
    assert thermal_energy(298.15) == pytest.approx(2.479, abs=1e-3)
    assert thermal_energy(np.array([100.0, 300.0])) == pytest.approx([0.831446, 2.494339], abs=1e-6)
