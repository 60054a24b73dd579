"""From a folder with a system.toml to a `Molecule`. docs/SYSTEMS.md describes the file field by field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from molsampler.molecules.loading.acceptance import accept
from molsampler.molecules.loading.amber import read_amber
from molsampler.molecules.loading.arguments import create_system_arguments
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.force_field import create_system
from molsampler.molecules.loading.one_molecule import refuse_several
from molsampler.molecules.loading.openmmtools_system import read_openmmtools
from molsampler.molecules.loading.pdb import read_pdb
from molsampler.molecules.loading.settings import FILE, Settings, read_settings
from molsampler.molecules.loading.system_xml import match, read_system_xml
from molsampler.molecules.molecule import Molecule

Say = Callable[[str], None]
Parts = tuple[app.Topology, openmm.System, np.ndarray]

_BATHS = (
    openmm.AndersenThermostat,
    openmm.MonteCarloBarostat,
    openmm.MonteCarloAnisotropicBarostat,
    openmm.MonteCarloFlexibleBarostat,
    openmm.MonteCarloMembraneBarostat,
)


def load_molecule(name_or_path: str | Path, say: Say = print) -> Molecule:
    """The molecule of a system.toml, by name, folder or file.

    say : is told what was chosen or left out on the way, such as models of a PDB file after the first
    Raises InputError for a file that is missing or malformed, for a force field that is unknown or does not fit the
    structure, and for a molecule that cannot be sampled (see `accept`).
    """
    settings = read_settings(find_system_folder(name_or_path) / FILE)
    readers = {
        "openmmtools": _from_openmmtools,
        "prmtop": _from_prmtop,
        "system_xml": _from_system_xml,
        "pdb": _from_pdb,
    }
    topology, system, positions = readers[settings.source[0]](settings, say)
    molecule = Molecule(settings.name, topology, system, positions, settings.temperature, settings.amides)
    accept(molecule, settings.source[0])
    return molecule


def _from_openmmtools(settings: Settings, say: Say) -> Parts:
    return read_openmmtools(settings.openmmtools, settings.arguments, settings.where)


def _from_prmtop(settings: Settings, say: Say) -> Parts:
    arguments = create_system_arguments(settings.arguments, settings.where, prmtop=True)
    arguments["temperature"] = settings.temperature * unit.kelvin  # of the ions' screening
    prmtop = settings.path("prmtop")
    *parts, notes = read_amber(prmtop, settings.path("inpcrd"), arguments)
    _tell(say, prmtop, notes)
    return tuple(parts)


def _from_system_xml(settings: Settings, say: Say) -> Parts:
    xml, pdb = settings.path("system_xml"), settings.path("pdb")
    system, structure = read_system_xml(xml), read_pdb(pdb)
    _tell(say, pdb, structure.notes)
    match(system, structure, xml, pdb)
    for k in reversed(range(system.getNumForces())):
        force = system.getForce(k)
        if isinstance(force, _BATHS):
            _tell(say, xml, [f"{type(force).__name__} is left out: the sampler has a temperature of its own"])
            system.removeForce(k)
    return structure.topology, system, structure.positions


def _from_pdb(settings: Settings, say: Say) -> Parts:
    path = settings.path("pdb")
    arguments = create_system_arguments(settings.arguments, settings.where)
    structure = read_pdb(path)
    _tell(say, path, structure.notes)
    # before the force field, which would say less of water than that it has no template
    bonds = [(a.index, b.index) for a, b in structure.topology.bonds()]
    refuse_several(structure.topology, bonds, str(path), "pdb")
    system = create_system(structure.topology, settings.forcefield, settings.folder, arguments, str(path))
    return structure.topology, system, structure.positions


def _tell(say: Say, path: Path, notes: list[str] | tuple[str, ...]) -> None:
    for note in notes:
        say(f"{path}: {note}")
