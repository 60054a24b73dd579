"""From a PDB file to a topology and positions."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app, unit

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.pdb_text import clean_pdb


@dataclass(frozen=True)
class Structure:
    """One structure of a PDB file.

    topology : without a box; positions : (N, 3) float64 nm
    text : the clean PDB text that they were read from; notes : what was chosen or left out on the way to it
    """

    topology: app.Topology
    positions: np.ndarray
    text: str
    notes: tuple[str, ...] = ()


def read_pdb(path: str | Path, chains: Sequence[str] = ()) -> Structure:
    """The structure in the PDB file at `path`: first model, one location an atom, these chains (all if empty).

    Raises InputError for what is no PDB file; see `clean_pdb`.
    """
    text, notes = clean_pdb(path, chains)
    return parse_pdb(text, str(path), notes)


def parse_pdb(text: str, where: str, notes: Sequence[str] = ()) -> Structure:
    """The structure of clean PDB text; `where` names it in messages."""
    said = io.StringIO()  # OpenMM's reader prints its warnings
    try:
        with contextlib.redirect_stdout(said):
            pdb = app.PDBFile(io.StringIO(text))
    except Exception as error:  # the parser raises whatever its lines made of it
        raise InputError(f"{where} cannot be read as a PDB file: {error}") from error
    given = sum(line.startswith(("ATOM", "HETATM")) for line in text.splitlines())
    if pdb.topology.getNumAtoms() != given:
        raise InputError(
            f"{where} holds {given} atoms, of which OpenMM's PDB reader takes {pdb.topology.getNumAtoms()}: number its "
            "residues one after the other, with names of their own for the atoms of each"
        )
    pdb.topology.setPeriodicBoxVectors(None)
    warnings = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
    positions = np.array(pdb.positions.value_in_unit(unit.nanometer), dtype=np.float64).reshape(-1, 3)
    return Structure(pdb.topology, positions, text, (*notes, *warnings))
