"""A PDB file as text, brought down to one structure: first model, one location an atom, chosen chains, no box.

What is left out is told in notes; nothing is mended. Columns are those of the PDB format 3.3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from molsampler.basis.errors import InputError

_COORDINATES = {"x": slice(30, 38), "y": slice(38, 46), "z": slice(46, 54)}
_COVALENT = {"C", "N", "O", "S"}  # elements whose LINK is a bond, not the coordination of a metal


@dataclass(frozen=True)
class _Line:
    """An ATOM or HETATM record."""

    text: str
    number: int  # of the line in the file, from 1

    @property
    def serial(self) -> str:
        return self.text[6:11].strip()

    @property
    def name(self) -> str:
        return self.text[12:16].strip()

    @property
    def alternate(self) -> str:
        return self.text[16:17].strip()

    @property
    def residue_name(self) -> str:
        return self.text[17:21].strip()

    @property
    def chain(self) -> str:
        return self.text[21:22]

    @property
    def residue(self) -> tuple[str, str]:
        """Chain and residue number with insertion code."""
        return self.chain, self.text[22:27].strip()

    @property
    def label(self) -> str:
        return f"{self.residue_name}{self.residue[1]}-{self.name}"

    @property
    def occupancy(self) -> float:
        try:
            return float(self.text[54:60])
        except ValueError:
            return 1.0


def clean_pdb(path: str | Path, chains: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The text of the structure in the PDB file at `path`, and notes on what was chosen or left out.

    chains : identifiers of the chains to keep; all of them if empty

    ATOM, HETATM, TER and CONECT records are kept, LINK records between C, N, O and S become CONECT records, SEQRES and
    MODRES (PDBFixer reads them) stay in front. Raises InputError for a file that is missing, empty or no PDB file, for
    coordinates that are no finite numbers, for an atom that is there twice, and for a chain that is not there.
    """
    path = Path(path)
    notes: list[str] = []
    lines = re.split(r"\r\n|\r|\n", _read(path))
    atoms, body = _first_model(path, lines, notes)
    _check_coordinates(path, atoms)
    atoms = _chosen_chains(path, atoms, chains, notes)
    atoms = _one_location(atoms, notes)
    _refuse_twice(path, atoms)
    _note_box(lines, notes)
    kept = {atom.number: f"{atom.text[:16]} {atom.text[17:]}".rstrip() for atom in atoms}
    head = [line.rstrip() for line in lines if line.startswith(("SEQRES", "MODRES"))]
    bonds = [*_conect(lines, {atom.serial for atom in atoms}), *_links(lines, atoms)]
    return "\n".join([*head, *_kept_lines(body, kept), *bonds, "END", ""]), notes


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path of the PDB file") from error
    if not data.strip():
        raise InputError(f"{path} is empty: it holds no atoms")
    if data[:2] == b"\x1f\x8b":
        raise InputError(f"{path} is compressed: unpack it with gunzip first")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if re.search(r"^(data_|_atom_site\.)", text, re.MULTILINE):
        raise InputError(f"{path} is an mmCIF file: save the structure in PDB format")
    return text


def _first_model(path: Path, lines: list[str], notes: list[str]) -> tuple[list[_Line], list[tuple[int, str]]]:
    """Atoms of the first model, and with them its TER records, (line number, text) each."""
    atoms: list[_Line] = []
    body: list[tuple[int, str]] = []
    models, ended = 0, False
    for number, line in enumerate(lines, 1):
        record = line[:6].strip()
        if record in ("ENDMDL", "END", "MODEL") and atoms:
            ended = True
        elif record in ("ATOM", "HETATM"):
            if ended or not models:
                models, ended = models + 1, False
            if models == 1:
                atoms.append(_Line(line.ljust(80), number))
                body.append((number, line))
        elif record == "TER" and models == 1 and not ended:
            body.append((number, line))
    if not atoms:
        raise InputError(f"{path} holds no ATOM or HETATM records: is it a PDB file?")
    if models > 1:
        notes.append(f"{models} models: the first one is taken")
    return atoms, body


def _check_coordinates(path: Path, atoms: Iterable[_Line]) -> None:
    for atom in atoms:
        for axis, columns in _COORDINATES.items():
            word = atom.text[columns].strip()
            try:
                value = float(word)
            except ValueError:
                raise InputError(
                    f"{path}, line {atom.number}: '{word}' is no number for {axis} of {atom.label} (columns "
                    f"{columns.start + 1} to {columns.stop}): is it a PDB file?"
                ) from None
            if not math.isfinite(value):
                raise InputError(f"{path}, line {atom.number}: {axis} of {atom.label} is {word}; give a finite number")


def _chosen_chains(path: Path, atoms: list[_Line], chains: Sequence[str], notes: list[str]) -> list[_Line]:
    if not chains:
        return atoms
    there = list(dict.fromkeys(atom.chain for atom in atoms))
    for chain in chains:
        if chain not in there:
            raise InputError(f"{path} has no chain '{chain}'; it has {', '.join(map(repr, there))}")
    left = [chain for chain in there if chain not in chains]
    if left:
        notes.append(f"chains {', '.join(map(repr, left))} are left out")
    return [atom for atom in atoms if atom.chain in chains]


def _one_location(atoms: list[_Line], notes: list[str]) -> list[_Line]:
    """Of each residue's alternate locations the one with the highest mean occupancy, the first of equals."""
    found: dict[tuple[str, str], dict[str, list[_Line]]] = {}
    for atom in atoms:
        if atom.alternate:
            found.setdefault(atom.residue, {}).setdefault(atom.alternate, []).append(atom)
    chosen = {
        residue: max(places, key=lambda a, p=places: sum(atom.occupancy for atom in p[a]) / len(p[a]))
        for residue, places in found.items()
    }
    kept: dict[tuple, _Line] = {}
    for atom in atoms:
        best = chosen.get(atom.residue, "")
        names = {a.residue_name for a in found[atom.residue][best]} if best else {atom.residue_name}
        if atom.residue_name not in names:
            continue  # another residue at the same place in the chain
        key = (*atom.residue, atom.name) if atom.alternate else atom.number
        if key not in kept or (atom.alternate == best != kept[key].alternate):
            kept[key] = atom
    several = [residue for residue, places in found.items() if len(places) > 1]
    if several:
        labels = {
            residue: atom.residue_name + residue[1] for (residue, atom) in ((a.residue, a) for a in kept.values())
        }
        words = ", ".join(f"{chosen[residue]} of {labels[residue]}" for residue in several)
        notes.append(f"alternate locations: taken is {words}, of the highest occupancy")
    return sorted(kept.values(), key=lambda atom: atom.number)


def _refuse_twice(path: Path, atoms: list[_Line]) -> None:
    residue, seen = None, {}
    for atom in atoms:
        if (atom.residue, atom.residue_name) != residue:
            residue, seen = (atom.residue, atom.residue_name), {}
        if atom.name in seen:
            raise InputError(
                f"{path}: {atom.label} is there twice, in lines {seen[atom.name]} and {atom.number}; the atoms of a "
                "residue need names of their own"
            )
        seen[atom.name] = atom.number


def _kept_lines(body: list[tuple[int, str]], kept: dict[int, str]) -> list[str]:
    """The kept atoms, and a TER record behind those that had one."""
    lines: list[str] = []
    for number, text in body:
        if number in kept:
            lines.append(kept[number])
        elif text.startswith("TER") and lines and lines[-1] != "TER":
            lines.append("TER")
    return lines


def _note_box(lines: list[str], notes: list[str]) -> None:
    for line in lines:
        if line.startswith("CRYST1"):
            try:
                lengths = [float(line[k : k + 9]) for k in (6, 15, 24)]
            except ValueError:
                return
            if min(lengths) > 2.0:  # 1 x 1 x 1 stands for "no crystal"
                size = " x ".join(f"{x:g}" for x in lengths)
                notes.append(f"the box ({size} A) is left out: the molecule is sampled alone")
            return


def _conect(lines: list[str], serials: set[str]) -> list[str]:
    kept = []
    for line in lines:
        if line.startswith("CONECT"):
            words = [line[k : k + 5].strip() for k in range(6, 31, 5)]
            bonded = [word for word in words[1:] if word in serials]
            if words[0] in serials and bonded:
                kept.append("CONECT" + "".join(f"{word:>5s}" for word in (words[0], *bonded)))
    return kept


def _links(lines: list[str], atoms: list[_Line]) -> list[str]:
    """CONECT records for the LINK records whose two atoms are there."""
    by_name = {(*atom.residue, atom.name): atom for atom in atoms}
    bonds = []
    for line in (text.ljust(80) for text in lines if text.startswith("LINK  ")):
        ends = [by_name.get((line[k + 9], line[k + 10 : k + 15].strip(), line[k : k + 4].strip())) for k in (12, 42)]
        if all(end is not None and end.text[76:78].strip().upper() in _COVALENT for end in ends):
            bonds.append(f"CONECT{ends[0].serial:>5s}{ends[1].serial:>5s}")
    return bonds
