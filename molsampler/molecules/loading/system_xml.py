"""A System that was made elsewhere, as XML, with a PDB file for its structure."""

from __future__ import annotations

import xml.etree.ElementTree as etree
from pathlib import Path

import openmm

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.pdb import Structure


def read_system_xml(path: Path) -> openmm.System:
    """The serialised System in the file at `path`; InputError for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        kind = etree.fromstring(text).tag
    except (OSError, UnicodeDecodeError, etree.ParseError) as error:
        raise InputError(f"{path} cannot be read as XML: {error}") from error
    if kind != "System":
        advice = "name it under forcefield" if kind == "ForceField" else "write one with openmm.XmlSerializer.serialize"
        raise InputError(f"{path} holds a <{kind}>, not a serialised OpenMM System: {advice}")
    try:
        return openmm.XmlSerializer.deserialize(text)
    except Exception as error:  # OpenMM's words for what it does not know
        raise InputError(f"{path} is no System that this OpenMM ({openmm.__version__}) can read: {error}") from error


def match(system: openmm.System, structure: Structure, xml: Path, pdb: Path) -> None:
    """InputError unless the System and the structure have as many atoms."""
    particles, atoms = system.getNumParticles(), structure.topology.getNumAtoms()
    if particles != atoms:
        raise InputError(
            f"{xml} has {particles} particles, {pdb} {atoms} atoms: give the structure that the System was made from, "
            "with its atoms in the same order"
        )
