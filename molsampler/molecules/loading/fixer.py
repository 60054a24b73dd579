"""`--fix`: what PDBFixer and OpenMM's Modeller can mend in a PDB file, every change told. No network is used."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from molsampler.basis.errors import InputError
from molsampler.molecules.dynamics.minimum import nearest_minimum, potential_energy
from molsampler.molecules.loading.one_molecule import is_ion, is_water
from molsampler.molecules.loading.pdb import Structure, parse_pdb
from molsampler.molecules.topology import bonded_pairs, graph_of, residue_label
from molsampler.store.pdb import pdb_text

_SEED = 1  # of the positions that added atoms are minimised from


def fix_structure(structure: Structure, ph: float, where: str) -> Structure:
    """The structure with one whole molecule left in it; its notes tell each change, none of them if there are none.

    Waters, ions and everything else that no bond joins to the peptide are taken out; residues that are missing inside a
    chain by its SEQRES records, missing heavy atoms and the hydrogens of `ph` are added; non-standard residues are
    replaced where PDBFixer knows a standard one for them. Raises InputError where PDBFixer is not installed or fails.
    """
    if not 0.0 <= ph <= 14.0:
        raise InputError(f"--ph {ph} is not usable: give a pH between 0 and 14")
    fixer, module = _open(structure, where)
    notes: list[str] = []
    _remove_others(fixer, module, notes)
    _add_residues(fixer, notes)
    _replace_residues(fixer, notes)
    _add_heavy_atoms(fixer, notes)
    _add_hydrogens(fixer, ph, notes)
    fixer.topology.setPeriodicBoxVectors(None)
    text = pdb_text(fixer.topology, np.array(fixer.positions.value_in_unit(unit.nanometer)))
    return parse_pdb(text, where, notes)


def relax(structure: Structure, system: openmm.System, where: str) -> Structure:
    """The structure moved to the nearest minimum of `system`: added atoms come in strained places."""
    before = potential_energy(system, structure.positions)
    positions, after = nearest_minimum(system, structure.positions)
    moved = float(np.linalg.norm(positions - structure.positions, axis=1).max())
    note = f"relaxed from {before:,.0f} to {after:,.0f} kJ/mol, atoms moved by up to {moved:.3f} nm"
    return parse_pdb(pdb_text(structure.topology, positions), where, [note])


def _open(structure: Structure, where: str) -> tuple[Any, Any]:
    try:
        from pdbfixer import pdbfixer as module
    except ImportError as error:
        raise InputError(
            "--fix needs PDBFixer, which is not installed: pip install pdbfixer, or molsampler with its extra [fix]"
        ) from error
    try:
        return module.PDBFixer(pdbfile=io.StringIO(structure.text)), module
    except Exception as error:
        raise InputError(f"PDBFixer cannot read {where}: {error}") from error


def _remove_others(fixer: Any, module: Any, notes: list[str]) -> None:
    polymers = {*module.proteinResidues, *module.dnaResidues, *module.rnaResidues, *module.substitutions}
    polymers |= {residue.residueName for residue in fixer.modifiedResidues}
    atoms = list(fixer.topology.atoms())
    parts = graph_of(fixer.topology, bonded_pairs(fixer.topology)).parts
    chained = {part[0] for part in parts if any(atoms[i].residue.name in polymers for i in part)}
    out = []
    for part in parts:
        residues = {atoms[i].residue for i in part}
        if part[0] not in chained and (chained or is_ion(atoms, part) or is_water(residues)):
            out += sorted(residues, key=lambda r: r.index)
    out = list(dict.fromkeys(out))
    if not out:
        return
    waters = sum(is_water([residue]) for residue in out)
    if waters:
        notes.append(f"removed water ({waters} molecules)")
    others = Counter(residue.name for residue in out if not is_water([residue]))
    if others:
        notes.append(f"removed {', '.join(f'{count} {name}' for name, count in others.items())}")
    modeller = app.Modeller(fixer.topology, fixer.positions)
    modeller.delete(out)
    fixer.topology, fixer.positions = modeller.topology, modeller.positions


def _add_residues(fixer: Any, notes: list[str]) -> None:
    """Those missing inside a chain; the ends stay as they are."""
    fixer.findMissingResidues()
    chains = list(fixer.topology.chains())
    for (chain, index), names in list(fixer.missingResidues.items()):
        residues = list(chains[chain].residues())
        if index in (0, len(residues)):
            side = f"before {residue_label(residues[0])}" if index == 0 else f"after {residue_label(residues[-1])}"
            notes.append(f"left out {' '.join(names)} {side}, which SEQRES has and the structure has not")
            del fixer.missingResidues[chain, index]
        else:
            before, after = (residue_label(residue) for residue in residues[index - 1 : index + 1])
            notes.append(f"added residues {' '.join(names)} between {before} and {after}")


def _replace_residues(fixer: Any, notes: list[str]) -> None:
    fixer.findNonstandardResidues()
    notes += [f"replaced {residue_label(residue)} by {name}" for residue, name in fixer.nonstandardResidues]
    fixer.replaceNonstandardResidues()


def _add_heavy_atoms(fixer: Any, notes: list[str]) -> None:
    fixer.findMissingAtoms()
    # PDBFixer ends every chain with OXT, that of a cyclic peptide too
    closed = {residue for residue, name in _joined(fixer.topology) if name == "C"}
    fixer.missingTerminals = {r: names for r, names in fixer.missingTerminals.items() if r not in closed}
    added = {residue: [atom.name for atom in atoms] for residue, atoms in fixer.missingAtoms.items()}
    for residue, names in fixer.missingTerminals.items():
        added.setdefault(residue, []).extend(names)
    notes += [f"added {', '.join(names)} to {residue_label(residue)}" for residue, names in added.items()]
    fixer.addMissingAtoms(seed=_SEED)


def _joined(topology: app.Topology) -> set[tuple[app.topology.Residue, str]]:
    """Residues with the names of those of their atoms that bonds join to other residues."""
    return {(a.residue, a.name) for bond in topology.bonds() for a in bond if bond[0].residue is not bond[1].residue}


def _add_hydrogens(fixer: Any, ph: float, notes: list[str]) -> None:
    """By OpenMM's Modeller: PDBFixer's own function would look up unknown residues on the network."""
    before = _hydrogens(fixer.topology)
    modeller = app.Modeller(fixer.topology, fixer.positions)
    with _seeded():
        modeller.addHydrogens(pH=ph)
    # Modeller begins every chain with NH3, that of a cyclic peptide too
    firsts = {next(chain.residues()) for chain in modeller.topology.chains()}
    closed = firsts & {residue for residue, name in _joined(modeller.topology) if name == "N"}
    modeller.delete([a for residue in closed for a in residue.atoms() if a.name in ("H2", "H3")])
    added = _hydrogens(modeller.topology) - before
    if added:
        residues = modeller.topology.residues()
        states = [f"{residue_label(residue)} as {state}" for residue in residues if (state := _state(residue))]
        notes.append(f"added {added} hydrogens at pH {ph:g}" + (f" ({', '.join(states)})" if states else ""))
    fixer.topology, fixer.positions = modeller.topology, modeller.positions


def _state(residue: app.topology.Residue) -> str:
    """The name of the protonation state of a histidine, and of other residues where it is not the one of pH 7."""
    names = {atom.name for atom in residue.atoms()}
    bonded = any(a.residue is not b.residue and "SG" in (a.name, b.name) for a, b in residue.bonds())
    if residue.name == "HIS":
        return {(True, True): "HIP", (True, False): "HID", (False, True): "HIE"}.get(
            ("HD1" in names, "HE2" in names), ""
        )
    other = {
        "ASP": ("ASH", "HD2" in names),
        "GLU": ("GLH", "HE2" in names),
        "LYS": ("LYN", not {"HZ1", "HZ2", "HZ3"} <= names),
        "CYS": ("CYM", "HG" not in names and not bonded),
    }
    name, unusual = other.get(residue.name, ("", False))
    return name if unusual else ""


def _hydrogens(topology: app.Topology) -> int:
    return sum(atom.element is app.element.hydrogen for atom in topology.atoms())


@contextmanager
def _seeded() -> Iterator[None]:
    """Modeller places hydrogens with Python's global generator; it is left as it was."""
    state = random.getstate()
    random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(state)
