"""A PDB file as text, brought down to one structure. Columns are those of the PDB format 3.3."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.selection import Atom, Cleaned, box_notes, coordinate, occupancy, select

_COORDINATES = {"x": slice(30, 38), "y": slice(38, 46), "z": slice(46, 54)}
_TWO_LETTERS = ("CL", "NA", "MG", "BE", "LI", "ZN")
_COVALENT = {"C", "N", "O", "S"}  # elements whose LINK is a bond, not the coordination of a metal


def clean_pdb(path: Path, text: str, chains: Sequence[str] = ()) -> Cleaned:
    """The structure in `text`, which the PDB file at `path` holds: first model, one location an atom, no box.

    chains : identifiers of the chains to keep; all of them if empty

    ATOM, HETATM, TER and CONECT records are kept, LINK records between C, N, O and S become CONECT records, SEQRES and
    MODRES (PDBFixer reads them) stay in front. Raises InputError for a file that is no PDB file, for coordinates that
    are no finite numbers, for an atom that is there twice, and for a chain that is not there.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    body, models = _first_model(path, lines)
    records = [(number, line) for number, line in body if not line.startswith("TER")]
    atoms, notes = select(path, [_atom(path, *record) for record in records], models, chains)
    box = next((line for line in lines if line.startswith("CRYST1")), "")
    notes += box_notes([box[k : k + 9] for k in (6, 15, 24)])
    head = [line.rstrip() for line in lines if line.startswith(("SEQRES", "MODRES"))]
    bonds = [*_conect(lines, {atom.serial for atom in atoms}), *_links(lines, atoms)]
    return Cleaned("\n".join([*head, *_kept_lines(body, {atom.row for atom in atoms}), *bonds, "END", ""]), notes)


def _first_model(path: Path, lines: list[str]) -> tuple[list[tuple[int, str]], int]:
    """ATOM, HETATM and TER records of the first model, (line number, text) each, and the number of models."""
    body: list[tuple[int, str]] = []
    models, ended = 0, False
    for number, line in enumerate(lines, 1):
        record = line[:6].strip()
        if record in ("ENDMDL", "END", "MODEL") and models:
            ended = True
        elif record in ("ATOM", "HETATM"):
            if ended or not models:
                models, ended = models + 1, False
            if models == 1:
                body.append((number, line))
        elif record == "TER" and models == 1 and not ended:
            body.append((number, line))
    if not models:
        raise InputError(f"{path} holds no ATOM or HETATM records: is it a PDB file?")
    return body, models


def _atom(path: Path, number: int, line: str) -> Atom:
    text = line.ljust(80)
    residue_name, residue_number, name = text[17:21].strip(), text[22:27].strip(), text[12:16].strip()
    label = f"{residue_name}{residue_number}-{name}"
    position = tuple(
        coordinate(
            text[columns].strip(),
            f"{axis} of {label}",
            f"{path}, line {number}",
            f"(columns {columns.start + 1} to {columns.stop}): is it a PDB file?",
        )
        for axis, columns in _COORDINATES.items()
    )
    return Atom(
        row=number,
        line=number,
        serial=text[6:11].strip(),
        name=name,
        alternate=text[16:17].strip(),
        residue_name=residue_name,
        chain=text[21:22],
        number=residue_number,
        element=text[76:78].strip().upper(),
        position=position,
        occupancy=occupancy(text[54:60]),
    )


def _kept_lines(body: list[tuple[int, str]], kept: set[int]) -> list[str]:
    """The kept atoms, without alternate location indicators, and a TER record behind those that had one."""
    lines: list[str] = []
    for number, text in body:
        if number in kept:
            lines.append(f"{text[:16]} {text[17:]}".rstrip())
        elif text.startswith("TER") and lines and lines[-1] != "TER":
            lines.append("TER")
    return lines


def _conect(lines: list[str], serials: set[str]) -> list[str]:
    kept = []
    for line in lines:
        if line.startswith("CONECT"):
            words = [line[k : k + 5].strip() for k in range(6, 31, 5)]
            bonded = [word for word in words[1:] if word in serials]
            if words[0] in serials and bonded:
                kept.append("CONECT" + "".join(f"{word:>5s}" for word in (words[0], *bonded)))
    return kept


def _links(lines: list[str], atoms: list[Atom]) -> list[str]:
    """CONECT records for the LINK records whose two atoms are there, in one and the same copy of the molecule."""
    by_name = {(*atom.residue, atom.name): atom for atom in atoms}
    sizes = Counter(atom.residue for atom in atoms)
    bonds = []
    for line in (text.ljust(80) for text in lines if text.startswith("LINK  ")):
        ends = [by_name.get((line[k + 9], line[k + 10 : k + 15].strip(), line[k : k + 4].strip())) for k in (12, 42)]
        same_copy = line[59:65].strip() == line[66:72].strip()  # symmetry operators
        if same_copy and all(end is not None and _element(end, sizes[end.residue]) in _COVALENT for end in ends):
            bonds.append(f"CONECT{ends[0].serial:>5s}{ends[1].serial:>5s}")
    return bonds


def _element(atom: Atom, size: int) -> str:
    """Its element, where the columns of it are blank guessed from its name as OpenMM does; size : of its residue."""
    name = atom.name.upper().lstrip("0123456789")
    if atom.element:
        return atom.element
    return name[:2] if name.startswith(_TWO_LETTERS) or (size == 1 and name.startswith("CA")) else name[:1]
