"""Small real structures as PDB text, for tests that write files: alanine dipeptide, and peptides cut out of villin."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from openmm import app, unit
from openmm.app import element

from molsampler.molecules.loading.quiet_import import import_testsystems

FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")
AMBER = Path(import_testsystems().__file__).parent / "data"
DIPEPTIDE = AMBER / "alanine-dipeptide-gbsa"  # prmtop, crd and pdb
VILLIN = Path(app.__file__).parent / "data" / "test.pdb"  # 35 residues in a box of water, with two ions


@cache
def dipeptide_atoms() -> tuple[str, ...]:
    """The ATOM and HETATM records of ACE-ALA-NME in chain A, with hydrogens."""
    return tuple(atom_lines(_text(app.PDBFile(str(DIPEPTIDE / "alanine-dipeptide.pdb")))))


def atom_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]


def without_hydrogens(lines: list[str] | tuple[str, ...]) -> list[str]:
    return [line for line in lines if line[76:78].strip() != "H"]


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([*lines, "END", ""]))
    return path


@cache
def capped_segment(first: int, last: int) -> str:
    """PDB text of residues first to last of villin between ACE and NME, hydrogens placed by OpenMM's Modeller."""
    pdb = app.PDBFile(str(VILLIN))
    residues = {int(r.id): {a.name: a for a in r.atoms()} for r in pdb.topology.residues() if r.name != "HOH"}
    topology = app.Topology()
    chain = topology.addChain("A")
    positions = []

    def add(name: str, atoms: dict[str, str], source: dict) -> None:
        residue = topology.addResidue(name, chain)
        for new, old in atoms.items():
            topology.addAtom(new, source[old].element, residue)
            positions.append(pdb.positions[source[old].index].value_in_unit(unit.nanometer))

    add("ACE", {"CH3": "CA", "C": "C", "O": "O"}, residues[first - 1])
    for k in range(first, last + 1):
        heavy = [name for name, atom in residues[k].items() if atom.element is not element.hydrogen]
        add(next(iter(residues[k].values())).residue.name, dict(zip(heavy, heavy, strict=True)), residues[k])
    add("NME", {"N": "N", "C": "CA"}, residues[last + 1])
    topology.createStandardBonds()
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.addHydrogens(app.ForceField(FORCE_FIELD[0]), pH=7.0)
    return _text(modeller)


def _text(structure: app.PDBFile | app.Modeller) -> str:
    buffer = io.StringIO()
    app.PDBFile.writeFile(structure.topology, structure.positions, buffer)
    return buffer.getvalue()
