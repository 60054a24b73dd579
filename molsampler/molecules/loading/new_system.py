"""A new folder in systems/: the molecule's files, cleaned, with a system.toml; there whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molsampler.basis.errors import InputError
from molsampler.molecules.facts import alpha_handedness
from molsampler.molecules.loading.arguments import SOLVENTS, create_system_arguments
from molsampler.molecules.loading.fixer import fix_structure, relax
from molsampler.molecules.loading.force_field import OPENMM_DATA, create_system, find_force_field
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.one_molecule import refuse_several
from molsampler.molecules.loading.openmmtools_system import constructor_arguments
from molsampler.molecules.loading.pdb import Structure, read_pdb
from molsampler.molecules.loading.settings import FILE, check_temperature, settings_text
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.topology import bonded_pairs
from molsampler.store.atomic import write_text

Say = Callable[[str], None]
PDB, PRMTOP, INPCRD, XML = "input.pdb", "input.prmtop", "input.inpcrd", "system.xml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_COMMENTS = {
    "name": "of the molecule, in pictures and reports",
    "temperature": "K, of everything that is sampled",
    "pdb": "one molecule, all hydrogens",
    "forcefield": "OpenMM's files, or files in this folder; without implicit/*.xml in vacuum",
    "prmtop": "Amber's topology and parameters",
    "inpcrd": "Amber's coordinates",
    "system_xml": "a serialised OpenMM System",
    "openmmtools": "a class of openmmtools.testsystems",
    "constraints": '"none" means None: every bond length is sampled',
    "implicitSolvent": ", ".join(SOLVENTS),
}


@dataclass(frozen=True)
class Request:
    """What a new system is made of: pdb with forcefield, prmtop with inpcrd, system_xml with pdb, or openmmtools.

    pdb : a PDB or PDBx/mmCIF file;  temperature : K
    implicit_solvent : for a prmtop, one of SOLVENTS; chains : of that file to keep, all of them if empty
    templates : of the force field, for residues that several of them match: "ALA2=ALAD"
    fix, ph : mend the PDB file with PDBFixer, hydrogens at this pH
    """

    pdb: Path | None = None
    forcefield: tuple[str, ...] = ()
    prmtop: Path | None = None
    inpcrd: Path | None = None
    system_xml: Path | None = None
    openmmtools: str | None = None
    temperature: float = 300.0
    implicit_solvent: str | None = None
    chains: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    fix: bool = False
    ph: float = 7.0


def make_system(
    name: str, request: Request, shelf: str | Path = "systems", overwrite: bool = False, say: Say = print
) -> tuple[Path, Molecule]:
    """The new folder `shelf`/`name`, and the molecule that was loaded from it.

    say : is told every choice and change on the way
    Raises InputError for a name that is none, for a folder that is there already (unless `overwrite`), and for whatever
    keeps the molecule from being sampled; then nothing has been written.
    """
    check_name(name)
    _check_request(request)
    target = Path(shelf) / name
    _check_target(target, overwrite)
    with _staged(target) as folder:
        values, arguments, copies = _fill(folder, request, say)
        header = f"{name}, made by `molsampler new`{_origin(request)}; docs/SYSTEMS.md describes every field."
        text = settings_text({"name": name, "temperature": request.temperature} | values, _COMMENTS, arguments, header)
        write_text(folder / FILE, text)

        def of_originals(words: str) -> str:
            """`words` on the files that the user knows, not on the copies."""
            for copy, original in copies.items():
                words = words.replace(str(folder / copy), original)
            return words.replace(str(folder), str(target))

        try:
            molecule = load_molecule(folder, lambda words: say(of_originals(words)))
        except InputError as error:
            raise InputError(of_originals(str(error))) from error
    return target, molecule


def check_name(name: str) -> None:
    """InputError unless `name` can be that of a folder on every system."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InputError(
            f"'{name}' cannot be the name of a system: use up to 64 letters, digits, '_', '-' and '.', starting with a "
            "letter or digit"
        )


def _check_request(request: Request) -> None:
    keys = ("pdb", "forcefield", "prmtop", "inpcrd", "system_xml", "openmmtools")
    given = {key for key in keys if getattr(request, key)}
    sources = {"pdb": {"forcefield"}, "prmtop": {"inpcrd"}, "system_xml": {"pdb"}, "openmmtools": set()}
    source = next((key for key, others in sources.items() if given == {key, *others}), None)
    if source is None:
        raise InputError(
            "give one source: --pdb with --forcefield, --prmtop with --inpcrd, --system-xml with --pdb, or "
            f"--openmmtools; given is {_flags(given) or 'none'}"
        )
    check_temperature(request.temperature, "--temperature")
    if request.implicit_solvent is not None and source != "prmtop":
        raise InputError(
            "--implicit-solvent goes with --prmtop; with --forcefield name a file such as implicit/obc2.xml"
        )
    if request.implicit_solvent not in (None, *SOLVENTS):
        raise InputError(f"--implicit-solvent {request.implicit_solvent} is not one of {', '.join(SOLVENTS)}")
    if request.fix and source != "pdb":
        raise InputError(
            "--fix goes with --pdb and --forcefield: other sources have parameters for the atoms they have"
        )
    if request.ph != Request.ph and not request.fix:
        raise InputError(f"--ph {request.ph:g} goes with --fix, which adds the hydrogens of that pH")
    if request.templates and source != "pdb":
        raise InputError("--templates goes with --forcefield")
    if request.chains and "pdb" not in given:
        raise InputError("--chains goes with --pdb")
    for pair in request.templates:
        if not all(pair.partition("=")):
            raise InputError(f"--templates {pair} should name a residue and its template, such as ALA2=ALAD")


def _flags(keys: set[str]) -> str:
    return ", ".join(f"--{key.replace('_', '-')}" for key in sorted(keys))


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target} is there already: choose another name, or replace it with --overwrite")
    if not (target / FILE).is_file():
        raise InputError(f"{target} holds no {FILE}, so it is no system to overwrite: move it away, or choose a name")
    if (target / "reference").exists():
        raise InputError(
            f"{target / 'reference'} holds the reference of the system that is there, and --overwrite would lose it: "
            "delete it if it is not worth keeping, or choose another name"
        )


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end, or is gone without a trace."""
    made_shelf = not target.parent.exists()
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{target.parent} cannot hold a new system ({error.strerror}): change directory") from error
    try:
        yield staging
        if target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            os.rename(target, old)
            os.rename(staging, target)
            shutil.rmtree(old)
        else:
            os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made_shelf and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _fill(folder: Path, request: Request, say: Say) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Writes the files; returns what system.toml says, its [arguments], and {file: where it came from}."""
    if request.openmmtools:
        takes = constructor_arguments(request.openmmtools, "--openmmtools")
        return {"openmmtools": request.openmmtools}, {"constraints": "none"} if "constraints" in takes else {}, {}
    if request.prmtop:
        copies = {PRMTOP: _copied(request.prmtop, folder / PRMTOP), INPCRD: _copied(request.inpcrd, folder / INPCRD)}
        arguments = {"implicitSolvent": request.implicit_solvent} if request.implicit_solvent else {}
        return {"prmtop": PRMTOP, "inpcrd": INPCRD}, arguments, copies
    copies = {PDB: str(request.pdb)}
    structure = read_pdb(request.pdb, request.chains)
    _tell(say, request.pdb, structure.notes)
    if request.system_xml:
        copies[XML] = _copied(request.system_xml, folder / XML)
        write_text(folder / PDB, structure.text)
        return {"system_xml": XML, "pdb": PDB}, {}, copies
    taken = {PDB, FILE, *(name for name in request.forcefield if _is_openmms(name))}
    names = tuple(_force_field(name, folder, taken, say) for name in request.forcefield)
    templates = dict(pair.split("=", 1) for pair in request.templates)
    arguments = {"residueTemplates": templates} if templates else {}
    if request.fix:
        structure = _fixed(structure, request, names, folder, arguments, say)
    write_text(folder / PDB, structure.text)
    return {"pdb": PDB, "forcefield": names}, arguments, copies


def _fixed(
    structure: Structure, request: Request, names: tuple[str, ...], folder: Path, arguments: dict[str, Any], say: Say
) -> Structure:
    """The structure mended, and relaxed in its force field where that added atoms."""
    where = str(request.pdb)
    fixed = fix_structure(structure, request.ph, where)
    _tell(say, request.pdb, fixed.notes or ["--fix found nothing to change"])
    if _atoms(fixed) <= _atoms(structure):
        return fixed
    refuse_several(fixed.topology, bonded_pairs(fixed.topology), where, "pdb")
    made = create_system_arguments(arguments, where)
    relaxed = relax(fixed, create_system(fixed.topology, names, folder, made, where), where)
    _tell(say, request.pdb, relaxed.notes)
    _refuse_mirrored(structure, relaxed, where)
    return relaxed


def _atoms(structure: Structure) -> set[tuple[str, ...]]:
    return {(a.residue.chain.id, a.residue.id, a.residue.name, a.name) for a in structure.topology.atoms()}


def _refuse_mirrored(before: Structure, after: Structure, where: str) -> None:
    """Handedness is kept in sampling, so that a residue that was put together the wrong way round would stay so."""
    given = alpha_handedness(before.topology, before.positions)
    made = alpha_handedness(after.topology, after.positions)
    wrong = [label for label, side in made.items() if side == "D" and given.get(label) != "D"]
    if wrong:
        raise InputError(
            f"{where}: as D amino acids came out of PDBFixer {', '.join(wrong)}; add the missing atoms with another "
            "program"
        )


def _tell(say: Say, path: Path, notes: Sequence[str]) -> None:
    for note in notes:
        say(f"{path}: {note}")


def _force_field(name: str, folder: Path, taken: set[str], say: Say) -> str:
    """The name in system.toml of a force field: OpenMM's own, or that of a copy of the user's file, which is none of
    those that are `taken` or there."""
    own = Path(name)
    if _is_openmms(name):
        if own.is_file():
            say(f"{name}: OpenMM's file is taken, not the one in this directory; give ./{name} for that")
        return name
    if not own.is_file():
        find_force_field(name, Path.cwd())
    copy = next(name for name in _numbered(own) if name not in taken and not (folder / name).exists())
    if copy != own.name:
        say(f"{name}: kept as {copy}, since {own.name} is another file")
    _copied(own, folder / copy)
    return copy


def _is_openmms(name: str) -> bool:
    """Whether a name means a file that comes with OpenMM: no absolute path, and none that begins with a dot."""
    return not name.startswith(".") and not Path(name).is_absolute() and (OPENMM_DATA / name).is_file()


def _numbered(path: Path) -> Iterator[str]:
    """ff.xml, ff-2.xml, ff-3.xml and so on."""
    yield path.name
    for k in itertools.count(2):
        yield f"{path.stem}-{k}{path.suffix}"


def _copied(source: Path, copy: Path) -> str:
    try:
        shutil.copyfile(source, copy)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}): check the path") from error
    return str(source)


def _origin(request: Request) -> str:
    files = [path.name for path in (request.pdb, request.prmtop, request.inpcrd, request.system_xml) if path]
    return f" from {' and '.join(files)}" if files else ""
