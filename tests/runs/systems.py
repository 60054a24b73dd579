"""Systems of one's own in a folder, for what a run says and refuses."""

from __future__ import annotations

from pathlib import Path

from molsampler.molecules.loading.load import find_system_folder

UNCOVERED = """<ForceField><Script>
import openmm
force = openmm.CustomCompoundBondForce(2, "0*distance(p1, p2)")
force.addBond([0, 1])
sys.addForce(force)
</Script></ForceField>
"""
"""A force that costs nothing and that the torch kernels do not cover."""


def own_gly(folder: Path, uncovered: bool = False, models: int = 1) -> Path:
    """The system gly in a folder of its own; with a force beyond the torch kernels, with several models in its PDB."""
    folder.mkdir(parents=True)
    given = find_system_folder("gly")
    lines = [line for line in (given / "input.pdb").read_text().splitlines() if line.startswith(("ATOM", "HETATM"))]
    model = [line for k in range(models) for line in (f"MODEL     {k + 1:4d}", *lines, "TER", "ENDMDL")]
    (folder / "input.pdb").write_text("\n".join([*(model if models > 1 else lines), "END", ""]))
    text = (given / "system.toml").read_text().replace('name = "gly"\n', f'name = "{folder.name}"\n')
    if uncovered:
        (folder / "more.xml").write_text(UNCOVERED)
        text = text.replace('"implicit/obc2.xml"]', '"implicit/obc2.xml", "more.xml"]')
    (folder / "system.toml").write_text(text)
    return folder
