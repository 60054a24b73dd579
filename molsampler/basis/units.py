"""The units inside the package (nm, ps, dalton, kJ/mol, K, radians) and the one constant that joins two of them.

In these units 1 dalton nm^2 / ps^2 is 1 kJ/mol, so that dynamics need no factor. Whatever comes in other units is
converted where it comes in: by `openmm.unit` in molecules, by NumPy's and torch's deg2rad and rad2deg elsewhere.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

Number = TypeVar("Number", float, np.ndarray, Tensor)
GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K (CODATA 2018, exact)


def thermal_energy(temperature: Number) -> Number:
    """RT in kJ/mol of temperatures in K, of any shape; beta is its inverse."""
    return GAS_CONSTANT * temperature
