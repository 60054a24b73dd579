"""Of the atoms in a structure file those of one structure: chosen chains, one location an atom, none of them twice.

What is left out is told in notes; nothing is mended. PDB and PDBx/mmCIF files are brought down to one structure here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from molsampler.basis.errors import InputError


@dataclass(frozen=True)
class Atom:
    """An atom as a structure file has it.

    row : its place among the atoms of the file;  line : of the file, from 1, for messages
    number : of its residue, insertion code included; chain and number : together name a residue
    position : x, y and z in Angstrom, finite
    """

    row: int
    line: int
    serial: str
    name: str
    alternate: str
    residue_name: str
    chain: str
    number: str
    element: str
    position: tuple[float, float, float]
    occupancy: float

    @property
    def residue(self) -> tuple[str, str]:
        return self.chain, self.number

    @property
    def label(self) -> str:
        return f"{self.residue_name}{self.number}-{self.name}"


@dataclass(frozen=True)
class Cleaned:
    """PDB text of one structure, and what was chosen or left out on the way to it.

    positions : of its atoms in Angstrom, where the file has them with more digits than the text
    """

    text: str
    notes: list[str]
    positions: list[tuple[float, float, float]] | None = None


def select(path: Path, atoms: list[Atom], models: int, chains: Sequence[str]) -> tuple[list[Atom], list[str]]:
    """The atoms, all of the first of `models` models, that make up one structure, and notes on what was chosen.

    chains : identifiers of the chains to keep; all of them if empty
    Raises InputError for a chain that is not there and for an atom that is there twice.
    """
    notes = [f"{models} models: the first one is taken"] if models > 1 else []
    atoms = _chosen_chains(path, atoms, chains, notes)
    atoms = _one_location(atoms, notes)
    _refuse_twice(path, atoms)
    return atoms, notes


def coordinate(word: str, what: str, where: str, advice: str) -> float:
    """The finite number that `word` stands for; InputError otherwise. what : names it, such as "x of ALA2-CA"."""
    try:
        value = float(word)
    except ValueError:
        raise InputError(f"{where}: '{word}' is no number for {what} {advice}") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {what} is {word}; give a finite number")
    return value


def occupancy(word: str) -> float:
    """Of an atom; 1 where the file has none."""
    try:
        return float(word)
    except ValueError:
        return 1.0


def box_notes(lengths: Sequence[str]) -> list[str]:
    """A note on the box with these edges in Angstrom; none where they are no numbers or stand for "no crystal"."""
    try:
        edges = [float(word) for word in lengths]
    except ValueError:
        return []
    if min(edges) <= 2.0:  # 1 x 1 x 1 stands for "no crystal"
        return []
    return [f"the box ({' x '.join(f'{x:g}' for x in edges)} A) is left out: the molecule is sampled alone"]


def _chosen_chains(path: Path, atoms: list[Atom], chains: Sequence[str], notes: list[str]) -> list[Atom]:
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


def _one_location(atoms: list[Atom], notes: list[str]) -> list[Atom]:
    """Of each residue's alternate locations the one with the highest mean occupancy, the first of equals."""
    found: dict[tuple[str, str], dict[str, list[Atom]]] = {}
    for atom in atoms:
        if atom.alternate:
            found.setdefault(atom.residue, {}).setdefault(atom.alternate, []).append(atom)
    chosen = {
        residue: max(places, key=lambda a, p=places: sum(atom.occupancy for atom in p[a]) / len(p[a]))
        for residue, places in found.items()
    }
    kept: dict[tuple | int, Atom] = {}
    for atom in atoms:
        best = chosen.get(atom.residue, "")
        names = {a.residue_name for a in found[atom.residue][best]} if best else {atom.residue_name}
        if atom.residue_name not in names:
            continue  # another residue at the same place in the chain
        key = (*atom.residue, atom.name) if atom.alternate else atom.row
        if key not in kept or (atom.alternate == best != kept[key].alternate):
            kept[key] = atom
    several = [residue for residue, places in found.items() if len(places) > 1]
    if several:
        labels = {atom.residue: f"{atom.residue_name}{atom.number}" for atom in kept.values()}
        words = ", ".join(f"{chosen[residue]} of {labels[residue]}" for residue in several)
        notes.append(f"alternate locations: taken is {words}, of the highest occupancy")
    return sorted(kept.values(), key=lambda atom: atom.row)


def _refuse_twice(path: Path, atoms: list[Atom]) -> None:
    residue, seen = None, {}
    for atom in atoms:
        if (atom.residue, atom.residue_name) != residue:
            residue, seen = (atom.residue, atom.residue_name), {}
        if atom.name in seen:
            raise InputError(
                f"{path}: {atom.label} is there twice, in lines {seen[atom.name]} and {atom.line}; the atoms of a "
                "residue need names of their own"
            )
        seen[atom.name] = atom.line
