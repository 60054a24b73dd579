"""A test system of openmmtools by its name."""

from __future__ import annotations

import inspect
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.quiet_import import import_testsystems


def read_openmmtools(name: str, given: dict[str, Any], where: str) -> tuple[app.Topology, openmm.System, np.ndarray]:
    """Topology, System and positions (N, 3) float64 nm of openmmtools' test system `name`.

    given : arguments of its constructor, where "none" means None
    """
    testsystems = import_testsystems()
    known = constructor_arguments(name, where, testsystems)
    for key in sorted(set(given) - known):
        raise InputError(f"{where}: openmmtools' {name} has no argument '{key}'; it takes {', '.join(sorted(known))}")
    arguments = {key: None if value == "none" else value for key, value in given.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters and packages that whoever made the test system chose
            made = getattr(testsystems, name)(**arguments)
    except Exception as error:  # whatever a constructor makes of arguments that a user wrote
        raise InputError(f"{where}: openmmtools' {name} does not take [arguments] {given}: {error}") from error
    positions = np.array(made.positions.value_in_unit(unit.nanometer), dtype=np.float64)
    return made.topology, made.system, positions


def constructor_arguments(name: str, where: str, testsystems: ModuleType | None = None) -> set[str]:
    """Names of the arguments that a test system takes; InputError where there is no such system.

    The test systems take and ignore any keyword: a misspelt one must not pass.
    """
    testsystems = testsystems or import_testsystems()
    kind = getattr(testsystems, name, None)
    if not (isinstance(kind, type) and issubclass(kind, testsystems.TestSystem)):
        raise InputError(
            f"{where}: openmmtools has no test system '{name}'; see openmmtools.testsystems for their names"
        )
    return {key for base in kind.__mro__ for key in inspect.signature(base.__init__).parameters} - {
        "self",
        "args",
        "kwargs",
    }
