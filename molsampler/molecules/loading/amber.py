"""A System from Amber's prmtop and inpcrd files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from molsampler.basis.errors import InputError


def read_amber(
    prmtop: Path, inpcrd: Path, arguments: dict[str, Any]
) -> tuple[app.Topology, openmm.System, np.ndarray, tuple[str, ...]]:
    """Topology, System, positions (N, 3) float64 nm, and notes.

    arguments : of AmberPrmtopFile.createSystem
    Raises InputError, quoting OpenMM, for files that it cannot read, that do not belong together or that do not suit
    the arguments.
    """
    parameters = _parsed(app.AmberPrmtopFile, prmtop, "an Amber prmtop")
    coordinates = _parsed(app.AmberInpcrdFile, inpcrd, "an Amber inpcrd")
    positions = np.array(coordinates.positions.value_in_unit(unit.nanometer), dtype=np.float64).reshape(-1, 3)
    n = parameters.topology.getNumAtoms()
    if len(positions) != n:
        raise InputError(f"{inpcrd} holds {len(positions)} atoms, {prmtop} {n}: give files that belong together")
    notes = []
    if parameters.topology.getPeriodicBoxVectors() is not None or coordinates.boxVectors is not None:
        notes.append("the periodic box is left out: the molecule is sampled alone")
    parameters.topology.setPeriodicBoxVectors(None)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            system = parameters.createSystem(**arguments)
    except Exception as error:  # whatever its parameters make OpenMM raise
        raise InputError(f"{prmtop} gives no System: {error}") from error
    notes += dict.fromkeys(str(w.message) for w in told if issubclass(w.category, UserWarning))
    return parameters.topology, system, positions, tuple(notes)


def _parsed(kind: type, path: Path, what: str) -> Any:
    try:
        return kind(str(path))
    except Exception as error:  # the readers raise whatever the lines made of them
        raise InputError(f"{path} cannot be read as {what} file: {error or type(error).__name__}") from error
