"""The one PDB writer: a structure that OpenMM and mdtraj read back with all of its bonds."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import mdtraj as md
import numpy as np
from openmm import app, unit

from molsampler.store.atomic import write_text

_PARTNERS = 4  # in a CONECT record


def write_pdb(path: str | Path, topology: app.Topology | md.Topology, positions: np.ndarray) -> None:
    """The structure, positions (N, 3) nm, as the file `path`; see `pdb_text`."""
    write_text(path, pdb_text(topology, positions))


def pdb_text(topology: app.Topology | md.Topology, positions: np.ndarray) -> str:
    """PDB text of positions (N, 3) nm, without a header or a box, with CONECT records for all bonds.

    OpenMM's and mdtraj's own writers leave out those between standard residues; a reader finds the ones in its table of
    residues, but not the one that closes a cyclic peptide.
    """
    if isinstance(topology, md.Topology):
        topology = topology.to_openmm()
    buffer = io.StringIO()
    app.PDBFile.writeModel(topology, np.asarray(positions, dtype=np.float64) * unit.nanometer, buffer, keepIds=True)
    lines = buffer.getvalue().splitlines()
    serials = [line[6:11].strip() for line in lines if line.startswith(("ATOM", "HETATM"))]
    bonds = ((a.index, b.index) for a, b in topology.bonds())
    return "\n".join([*lines, *conect_records(bonds, serials), "END", ""])


def conect_records(bonds: Iterable[tuple[int, int]], serials: Sequence[str]) -> list[str]:
    """CONECT records of bonds (i, j) between atoms with these serial numbers: each from both ends, in order."""
    partners: dict[int, set[int]] = {}
    for i, j in bonds:
        partners.setdefault(i, set()).add(j)
        partners.setdefault(j, set()).add(i)
    records = []
    for i, others in sorted(partners.items()):
        ordered = sorted(others)
        for k in range(0, len(ordered), _PARTNERS):
            records.append("CONECT" + "".join(f"{serials[n]:>5s}" for n in (i, *ordered[k : k + _PARTNERS])))
    return records
