"""Remakes the structure files of the molecules in systems/: python -m scripts.make_structures ala2 paracetamol

Without names it remakes all of them. Structures are built from the force field's templates, minimised in the force
field that the molecule's system.toml names, and written with the atom names of the PDB.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import openmm

from molsampler.molecules.loading.pdb import parse_pdb
from molsampler.molecules.molecule import Molecule
from molsampler.store.pdb import pdb_text
from tests.molecules.peptides import build

SYSTEMS = Path(__file__).resolve().parents[1] / "systems"
AMBER = ("amber14-all.xml", "implicit/obc2.xml")
LITERATURE = ("amber99sbildn.xml", "amber99_obc.xml")  # of the peptides that samplers are compared on


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
    "tetra": Recipe("ACE ALA ALA ALA NME", LITERATURE),
    "hexa": Recipe("ACE ALA ALA ALA ALA ALA NME", LITERATURE),
    "pro": Recipe("ACE PRO NME"),
    "phe": Recipe("ACE PHE NME"),
    "cyclo_phe_pro": Recipe("PHE PRO", cyclic=True),
    "cyclo_ala_gly": Recipe("ALA GLY ALA GLY", cyclic=True),
    "cyclohexanol": Recipe(
        "CHX", ("charmm36.xml", "implicit/obc2.xml", str(SYSTEMS / "cyclohexanol" / "residue.xml")), renamed="CHX"
    ),
    "paracetamol": Recipe("PACP", ("charmm36.xml", "implicit/obc2.xml"), renamed="TYL"),
}


def structure_text(molecule: Molecule) -> str:
    """The molecule as a PDB file; atom names as OpenMM reads them, which are those of the PDB."""
    again = parse_pdb(pdb_text(molecule.topology, molecule.positions), molecule.name)
    return pdb_text(again.topology, again.positions)


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
        (folder / "input.pdb").write_text(structure_text(molecule), encoding="utf-8")
        print(f"{name}: {molecule.n_atoms} atoms")


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(RECIPES)
    if unknown:
        raise SystemExit(f"make_structures: no recipe for '{unknown.pop()}'; there are {', '.join(RECIPES)}")
    main(sys.argv[1:])
