"""The [arguments] of a system.toml that OpenMM's createSystem takes, by its own names, with units put on."""

from __future__ import annotations

import math
from typing import Any

from openmm import app, unit

from molsampler.basis.errors import InputError

_PER_NM = unit.nanometer**-1
_NUMBERS = {
    "hydrogenMass": unit.dalton,
    "nonbondedCutoff": unit.nanometer,
    "switchDistance": unit.nanometer,
    "soluteDielectric": None,
    "solventDielectric": None,
    "implicitSolventKappa": _PER_NM,
    "implicitSolventSaltConc": unit.moles / unit.liter,
}
_CHOICES = {
    "nonbondedMethod": {"NoCutoff": app.NoCutoff, "CutoffNonPeriodic": app.CutoffNonPeriodic},
    "sasaMethod": {"ACE": "ACE", "LCPO": "LCPO", "none": None},
    "implicitSolvent": {
        "none": None,
        "HCT": app.HCT,
        "OBC1": app.OBC1,
        "OBC2": app.OBC2,
        "GBn": app.GBn,
        "GBn2": app.GBn2,
    },
    "constraints": {"none": None},
}
SOLVENTS = tuple(_CHOICES["implicitSolvent"])
PRMTOP_ONLY = {"implicitSolvent", "implicitSolventSaltConc"}
PDB_ONLY = {"residueTemplates"}
FIXED = {"nonbondedMethod": app.NoCutoff, "constraints": None, "rigidWater": False}
"""What createSystem is told where [arguments] do not say otherwise: a flexible molecule without a cutoff."""


def create_system_arguments(given: dict[str, Any], where: str, prmtop: bool = False) -> dict[str, Any]:
    """Keyword arguments for createSystem; InputError quotes a name or value that it does not take here."""
    known = (_NUMBERS.keys() | _CHOICES.keys() | PDB_ONLY) - (PDB_ONLY if prmtop else PRMTOP_ONLY)
    made = dict(FIXED)
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{where}: unknown argument '{key}'; known are {', '.join(sorted(known))}")
        readers = {**dict.fromkeys(_CHOICES, _choice), **dict.fromkeys(PDB_ONLY, _templates)}
        made[key] = readers.get(key, _number)(key, value, where)
    return made


def _choice(key: str, value: Any, where: str) -> Any:
    choices = _CHOICES[key]
    if isinstance(value, str) and value in choices:
        return choices[value]
    if key == "constraints":
        raise InputError(
            f"{where}: constraints = {value!r} is not possible: every bond length is sampled; leave constraints out "
            "(hydrogenMass makes long time steps stable instead)"
        )
    raise InputError(f"{where}: {key} = {value!r} is not one of {', '.join(choices)}")


def _templates(key: str, value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise InputError(f'{where}: {key} = {value!r} should be a table such as {{ ALA2 = "ALAD" }}')
    return value


def _number(key: str, value: Any, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    zero = key.startswith("implicitSolvent") or key == "switchDistance"
    if not number or value < 0 or (value == 0 and not zero):
        raise InputError(f"{where}: {key} = {value!r} should be a positive number")
    return float(value) if _NUMBERS[key] is None else float(value) * _NUMBERS[key]
