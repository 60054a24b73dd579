"""Remakes the structure files of the molecules in systems/: python -m scripts.make_structures ala2 paracetamol

Without names it remakes all of them. Structures are built from the force field's templates, minimised in the force
field that the molecule's system.toml names, and written with the atom names of the PDB.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import openmm
from openmm import app, unit

from molsampler.molecules.molecule import Molecule
from tests.molecules.peptides import build

SYSTEMS = Path(__file__).resolve().parents[1] / "systems"
AMBER = ("amber14-all.xml", "implicit/obc2.xml")


@dataclass(frozen=True)
class Recipe:
    """residues : names of templates in the force field, joined in this order; cyclic : last and first joined too
    renamed : three letters for a residue whose template has no name of the PDB; its System is then written as XML
    """

    residues: str
    forcefield: tuple[str, ...] = AMBER
    cyclic: bool = False
    renamed: str = ""


RECIPES = {
    "gly": Recipe("ACE GLY NME"),
    "ala2": Recipe("ACE ALA ALA NME"),
    "ala3": Recipe("ACE ALA ALA ALA NME"),
    "pro": Recipe("ACE PRO NME"),
    "phe": Recipe("ACE PHE NME"),
    "cyclo_phe_pro": Recipe("PHE PRO", cyclic=True),
    "cyclo_ala_gly": Recipe("ALA GLY ALA GLY", cyclic=True),
    "paracetamol": Recipe("PACP", ("charmm36.xml", "implicit/obc2.xml"), renamed="TYL"),
}


def pdb_text(molecule: Molecule) -> str:
    """The molecule as a PDB file without a header; atom names as OpenMM reads them, which are those of the PDB."""
    again = app.PDBFile(io.StringIO(_written(molecule.topology, molecule.positions * unit.nanometer)))
    # The bond that closes a ring of residues is in no template; a reader learns of it from a CONECT record alone.
    known = {(b.atom1.index, b.atom2.index) for b in again.topology.bonds()}
    closing = [(b.atom1.index, b.atom2.index) for b in molecule.topology.bonds()]
    records = "".join(f"CONECT{i + 1:5d}{j + 1:5d}\n" for i, j in closing if not {(i, j), (j, i)} & known)
    return _written(again.topology, again.positions).replace("END\n", records + "END\n")


def _written(topology: app.Topology, positions: unit.Quantity) -> str:
    file = io.StringIO()
    app.PDBFile.writeModel(topology, positions, file, keepIds=True)
    app.PDBFile.writeFooter(topology, file)
    return file.getvalue()


def main(names: list[str], systems: Path = SYSTEMS) -> None:
    """Writes into a folder of each name in `systems`."""
    for name in names or list(RECIPES):
        recipe = RECIPES[name]
        molecule = build(recipe.residues, *recipe.forcefield, cyclic=recipe.cyclic)
        folder = systems / name
        folder.mkdir(exist_ok=True)
        if recipe.renamed:
            next(molecule.topology.residues()).name = recipe.renamed
            (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(molecule.system), encoding="utf-8")
        (folder / "input.pdb").write_text(pdb_text(molecule), encoding="utf-8")
        print(f"{name}: {molecule.n_atoms} atoms")


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(RECIPES)
    if unknown:
        raise SystemExit(f"make_structures: no recipe for '{unknown.pop()}'; there are {', '.join(RECIPES)}")
    main(sys.argv[1:])
