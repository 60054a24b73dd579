"""From a folder with a system.toml to a `Molecule`: an openmmtools test system, or a PDB with an OpenMM force field.

name = "aldp"                             # default: the folder's name
temperature = 300.0                       # K
openmmtools = "AlanineDipeptideImplicit"  # either a test system, with [arguments] for its constructor ("none" is None)
pdb = "input.pdb"                         # or a PDB file in the folder, and the names of OpenMM's XML files
forcefield = ["amber14-all.xml", "implicit/obc2.xml"]
"""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from molsampler.errors import InputError
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.quiet_import import import_testsystems

KEYS = {"name", "temperature", "openmmtools", "arguments", "pdb", "forcefield"}
FILE = "system.toml"


def find_system_folder(name_or_path: str | Path) -> Path:
    """The folder that holds the system.toml meant by `name_or_path`: a folder, a system.toml, or a name in systems/.

    Names are looked up under the current directory, then beside the package. Raises InputError where there is none.
    """
    given = Path(name_or_path)
    if given.name == FILE and given.is_file():
        return given.parent
    shelves = [Path.cwd() / "systems", Path(__file__).resolve().parents[2] / "systems"]
    for folder in [given, *(shelf / given for shelf in shelves)]:
        if (folder / FILE).is_file():
            return folder
    known = sorted({p.parent.name for shelf in shelves for p in shelf.glob(f"*/{FILE}")})
    raise InputError(
        f"no {FILE} found for molecule '{name_or_path}': give a folder that holds one, or one of the names in systems/ "
        f"({', '.join(known) or 'none here'})"
    )


def load_molecule(name_or_path: str | Path) -> Molecule:
    """The molecule of a system.toml (see the module's text), by name, folder or file.

    Raises InputError for a file that is missing or malformed, for a force field that is unknown or does not fit the
    structure, and for a System that cannot be sampled here: constraints, virtual sites, a periodic box, several
    molecules.
    """
    folder = find_system_folder(name_or_path)
    settings = _read_settings(folder / FILE)
    if "openmmtools" in settings:
        topology, system, positions = _from_openmmtools(settings, folder / FILE)
    else:
        topology, system, positions = _from_pdb(settings, folder)
    molecule = Molecule(
        name=settings.get("name", folder.resolve().name),
        topology=topology,
        system=system,
        positions=positions,
        temperature=float(settings["temperature"]),
    )
    _check(molecule)
    return molecule


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    unknown = sorted(set(settings) - KEYS)
    if unknown:
        raise InputError(f"{path}: unknown key '{unknown[0]}'; known are {', '.join(sorted(KEYS))}")
    if ("openmmtools" in settings) == ("pdb" in settings):
        raise InputError(f'{path}: give either openmmtools = "<test system>" or pdb = "<file>", one of the two')
    kinds = {"name": str, "openmmtools": str, "arguments": dict, "pdb": str, "forcefield": list}
    for key, kind in kinds.items():
        if key in settings and not isinstance(settings[key], kind):
            raise InputError(f"{path}: {key} = {settings[key]!r} should be a {kind.__name__}")
    if "pdb" in settings and not settings.get("forcefield"):
        raise InputError(f'{path}: pdb needs forcefield, a list such as ["amber14-all.xml", "implicit/obc2.xml"]')
    wrong = {"pdb": "arguments", "openmmtools": "forcefield"}
    for key, misplaced in wrong.items():
        if key in settings and misplaced in settings:
            raise InputError(f"{path}: {misplaced} does not go with {key}; remove one of them")
    temperature = settings.get("temperature")
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not 0.0 < temperature < float("inf"):
        raise InputError(f"{path}: temperature = {temperature!r} must be a positive number of kelvin")
    return settings


def _from_openmmtools(settings: dict[str, Any], path: Path) -> tuple[app.Topology, openmm.System, np.ndarray]:
    testsystems = import_testsystems()
    name = settings["openmmtools"]
    kind = getattr(testsystems, name, None)
    if not (isinstance(kind, type) and issubclass(kind, testsystems.TestSystem)):
        raise InputError(
            f"{path}: openmmtools has no test system '{name}'; see openmmtools.testsystems for their names"
        )
    given = settings.get("arguments", {})
    # The test systems take and ignore any keyword: a misspelt one must not pass.
    known = {key for base in kind.__mro__ for key in inspect.signature(base.__init__).parameters}
    known -= {"self", "args", "kwargs"}
    for key in sorted(set(given) - known):
        raise InputError(f"{path}: openmmtools' {name} has no argument '{key}'; it takes {', '.join(sorted(known))}")
    arguments = {key: None if value == "none" else value for key, value in given.items()}
    try:
        made = kind(**arguments)
    except Exception as error:  # whatever a constructor makes of arguments that a user wrote
        raise InputError(f"{path}: openmmtools' {name} does not take [arguments] {given}: {error}") from error
    positions = np.array(made.positions.value_in_unit(unit.nanometer), dtype=np.float64)
    return made.topology, made.system, positions


def _from_pdb(settings: dict[str, Any], folder: Path) -> tuple[app.Topology, openmm.System, np.ndarray]:
    path = folder / settings["pdb"]
    if not path.is_file():
        raise InputError(f"pdb = '{settings['pdb']}': there is no file {path}")
    try:
        pdb = app.PDBFile(str(path))
    except Exception as error:  # the parser raises whatever its lines made of it
        raise InputError(f"{path} cannot be read as a PDB file: {error}") from error
    if not pdb.topology.getNumAtoms():
        raise InputError(f"{path} holds no atoms")
    names = settings["forcefield"]
    for name in names:
        try:
            app.ForceField(str(name) if not (folder / str(name)).is_file() else str(folder / name))
        except Exception as error:
            raise InputError(
                f"force field '{name}' cannot be loaded ({error}); give names of OpenMM's XML files, such as "
                '"amber14-all.xml" and "implicit/obc2.xml"'
            ) from error
    field = app.ForceField(*(str(folder / n) if (folder / n).is_file() else n for n in names))
    try:
        system = field.createSystem(pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False)
    except Exception as error:
        raise InputError(
            f"{path} does not fit force field {names}: {error} Missing atoms and hydrogens can be added with PDBFixer."
        ) from error
    return pdb.topology, system, np.array(pdb.positions.value_in_unit(unit.nanometer), dtype=np.float64)


def _check(molecule: Molecule) -> None:
    """Refuse what the sampler has no coordinates for."""
    system, n = molecule.system, molecule.n_atoms
    if system.getNumConstraints():
        raise InputError(
            f"'{molecule.name}' has {system.getNumConstraints()} constraints; make the system without "
            '(constraints = "none" under [arguments])'
        )
    for i in range(n):
        if system.isVirtualSite(i):
            raise InputError(f"'{molecule.name}': {molecule.atom_labels[i]} is a virtual site; they are not supported")
    if system.usesPeriodicBoundaryConditions():
        raise InputError(f"'{molecule.name}' is in a periodic box; use vacuum or an implicit solvent, without water")
    if molecule.positions.shape != (n, 3) or not np.isfinite(molecule.positions).all():
        raise InputError(f"'{molecule.name}': the structure needs {n} atoms with finite positions")
    parts = _count_parts(n, molecule.bonds)
    if parts != 1:
        raise InputError(f"'{molecule.name}' is {parts} disconnected molecules; keep one, and remove water and ions")


def _count_parts(n: int, bonds: list[tuple[int, int]]) -> int:
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in bonds:
        root[find(i)] = find(j)
    return len({find(i) for i in range(n)})
