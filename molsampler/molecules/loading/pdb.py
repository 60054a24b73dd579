"""From a PDB or PDBx/mmCIF file to a topology and positions."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from openmm import app, unit

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.mmcif_text import clean_mmcif
from molsampler.molecules.loading.pdb_text import clean_pdb

_ROUNDING = 1e-4  # nm; of a position in PDB text


@dataclass(frozen=True)
class Structure:
    """One structure of a PDB or PDBx/mmCIF file.

    topology : without a box; positions : (N, 3) float64 nm
    text : the clean PDB text of it; notes : what was chosen or left out on the way to it
    """

    topology: app.Topology
    positions: np.ndarray
    text: str
    notes: tuple[str, ...] = ()


def read_pdb(path: str | Path, chains: Sequence[str] = ()) -> Structure:
    """The structure in the PDB or mmCIF file at `path`: first model, one location an atom, these chains (all if empty).

    What the file holds tells the format, not its name. Positions have all the digits of the file. Raises InputError
    for a file that is missing, empty, compressed, or of neither format; see `clean_pdb` and `clean_mmcif`.
    """
    path = Path(path)
    text = _read(path)
    is_mmcif = re.search(r"^(data_|_atom_site\.)", text, re.MULTILINE) is not None
    cleaned = (clean_mmcif if is_mmcif else clean_pdb)(path, text, chains)
    structure = parse_pdb(cleaned.text, str(path), cleaned.notes)
    if cleaned.positions is None:
        return structure
    positions = np.array(cleaned.positions, dtype=np.float64) / 10.0
    if np.abs(positions - structure.positions).max() > _ROUNDING:
        raise InputError(f"{path}: the atoms of a residue are not together; write each residue as one block")
    return replace(structure, positions=positions)


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


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path of the structure file") from error
    if not data.strip():
        raise InputError(f"{path} is empty: it holds no atoms")
    if data[:2] == b"\x1f\x8b":
        raise InputError(f"{path} is compressed: unpack it with gunzip first")
    try:
        return data.decode("utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError:
        return data.decode("latin-1")
