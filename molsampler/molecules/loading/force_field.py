"""A System from a PDB structure and OpenMM's force-field files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openmm
from openmm import app

from molsampler.basis.errors import InputError
from molsampler.molecules.topology import residue_label

OPENMM_DATA = Path(app.__file__).parent / "data"
_WELL_KNOWN = ("amber14-all.xml", "amber99sb.xml", "amber96.xml", "charmm36.xml", "implicit/obc2.xml")
_CAPS = ("ACE", "NME")


def force_field_files() -> list[str]:
    """Names of the force-field files that come with OpenMM, such as "implicit/obc2.xml"."""
    files = []
    for path in sorted(OPENMM_DATA.rglob("*.xml")):
        with path.open(encoding="utf-8") as handle:
            if "<ForceField" in handle.read(2000):
                files.append(path.relative_to(OPENMM_DATA).as_posix())
    return files


def find_force_field(name: str, folder: Path) -> Path:
    """The file that `name` means: one in `folder`, or one of OpenMM's. InputError lists some where there is none."""
    for path in (folder / name, OPENMM_DATA / name):
        if path.is_file():
            return path
    known = force_field_files()
    close = difflib.get_close_matches(name, known, n=3)
    names = [*close, *(word for word in _WELL_KNOWN if word not in close)]
    raise InputError(
        f"there is no force field '{name}', neither in {folder} nor among OpenMM's: {', '.join(names)} ..."
    )


def load_force_field(names: Sequence[str], folder: Path) -> app.ForceField:
    """The ForceField of these files; InputError names the one that cannot be read, or says that they clash."""
    paths = [str(find_force_field(name, folder)) for name in names]
    try:
        return app.ForceField(*paths)
    except Exception as error:  # whatever a file makes the reader raise
        for name, path in zip(names, paths, strict=True):
            try:
                app.ForceField(path)
            except Exception as alone:
                raise InputError(f"force field '{name}' cannot be read: {alone}") from alone
        raise InputError(
            f"the force fields {', '.join(names)} do not go together: {error} Give one for the molecule and, for "
            'implicit solvent, one such as "implicit/obc2.xml"'
        ) from error


def create_system(
    topology: app.Topology, names: Sequence[str], folder: Path, arguments: dict[str, Any], where: str
) -> openmm.System:
    """The System of `topology` in these force fields.

    arguments : of ForceField.createSystem, with residueTemplates by label: {"ALA2": "ALAD"}
    where : names the structure in messages
    Raises InputError, quoting OpenMM, where a residue has no template or the files do not suit one another.
    """
    field = load_force_field(names, folder)
    if _caps_are_patches(field, topology):
        topology = _caps_joined(topology)
    arguments = dict(arguments)
    templates = _by_residue(topology, arguments.pop("residueTemplates", {}), where)
    try:
        return field.createSystem(topology, residueTemplates=templates, **arguments)
    except Exception as error:
        raise InputError(_told(error, names, where)) from error


def _caps_are_patches(field: app.ForceField, topology: app.Topology) -> bool:
    """Whether the caps of `topology` are no residues in the force field: CHARMM has patches of the one beside them."""
    caps = {residue.name for residue in topology.residues()} & set(_CAPS)
    return bool(field._patches) and not caps <= field._templates.keys()


def _by_residue(topology: app.Topology, templates: dict[str, str], where: str) -> dict[app.topology.Residue, str]:
    labelled = {residue_label(residue): residue for residue in topology.residues()}
    for label in templates:
        if label not in labelled:
            raise InputError(f"{where} has no residue {label} to take a template for; it has {', '.join(labelled)}")
    return {labelled[label]: template for label, template in templates.items()}


def _told(error: Exception, names: Sequence[str], where: str) -> str:
    """OpenMM's words, and what to do."""
    words, files = re.sub(r"\s*For more information, see \S+", "", " ".join(str(error).split())), ", ".join(names)
    if isinstance(error, KeyError):
        words = f"There is no template {words}"
    words = words if words[-1:] in ".?!" else f"{words}."
    if "No template found" in words:
        return (
            f"{where} does not fit {files}: {words} Missing atoms and hydrogens are added, and non-standard residues "
            "replaced, by PDBFixer: molsampler new ... --fix; other molecules come in as system_xml"
        )
    if "matching templates" in words:
        return (
            f"{where} and {files}: {words} Say which one is meant, such as --templates ALA2=ALAD (in system.toml "
            "residueTemplates under [arguments])"
        )
    if "never used" in words:
        advice = "Dielectric constants, kappa and sasaMethod need an implicit solvent among the force fields"
    elif "emplate" in words:
        advice = "Change residueTemplates"
    else:
        advice = (
            'For implicit solvent, "implicit/obc2.xml" and the others of that folder suit every Amber and CHARMM force '
            'field, the older "amber99_obc.xml" only its own'
        )
    return f"{where} and {files} do not go together: {words} {advice}"


def _caps_joined(topology: app.Topology) -> app.Topology:
    """The same atoms and bonds, in the same order, with ACE and NME made part of the residue beside them."""
    joined = app.Topology()
    copies = {}
    for chain in topology.chains():
        new_chain = joined.addChain(chain.id)
        for group in _with_caps(list(chain.residues())):
            named = next((residue for residue in group if residue.name not in _CAPS), group[0])
            new_residue = joined.addResidue(named.name, new_chain, named.id)
            for atom in (atom for residue in group for atom in residue.atoms()):
                copies[atom] = joined.addAtom(atom.name, atom.element, new_residue)
    for a, b in topology.bonds():
        joined.addBond(copies[a], copies[b])
    return joined


def _with_caps(residues: list[app.topology.Residue]) -> list[list[app.topology.Residue]]:
    """The residues of a chain one by one, but an ACE with the one after it and an NME with the one before it."""
    groups: list[list[app.topology.Residue]] = []
    for residue in residues:
        if groups and (residue.name == "NME" or groups[-1][-1].name == "ACE"):
            groups[-1].append(residue)
        else:
            groups.append([residue])
    return groups
