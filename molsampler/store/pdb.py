"""One frame as a PDB file that mdtraj reads back with all of its bonds."""

from __future__ import annotations

from pathlib import Path

import mdtraj as md

from molsampler.store.atomic import atomic_path


def write_pdb(path: Path, frame: md.Trajectory) -> None:
    """The single frame at `path`, with CONECT records for all bonds that a reader would not find by itself.

    mdtraj writes none between standard residues, such as the bond that closes a cyclic peptide.
    """
    with atomic_path(path) as temporary:
        frame.save_pdb(str(temporary))
        missing = sorted(_bonds(frame.topology) - _bonds(md.load_topology(str(temporary), standard_names=False)))
        if missing:
            lines = temporary.read_text(encoding="utf-8").splitlines()
            serials = [line[6:11] for line in lines if line.startswith(("ATOM", "HETATM"))]
            lines[-1:] = [*(f"CONECT{serials[i]}{serials[j]}" for i, j in missing), "END", ""]
            temporary.write_text("\n".join(lines), encoding="utf-8")


def _bonds(topology: md.Topology) -> set[tuple[int, int]]:
    pairs = ((bond.atom1.index, bond.atom2.index) for bond in topology.bonds)
    return {(min(pair), max(pair)) for pair in pairs}
