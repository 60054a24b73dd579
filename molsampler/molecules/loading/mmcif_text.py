"""A PDBx/mmCIF file (the PDB's `.cif`) brought down to one structure, as PDB text: one reader serves both."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.cif import Row, Tables, read_cif
from molsampler.molecules.loading.selection import Atom, Cleaned, box_notes, coordinate, occupancy, select
from molsampler.store.pdb import conect_records

_BONDS = ("covale", "disulf", "modres")  # kinds of struct_conn that are bonds; the others are contacts
_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
_USED = ("atom_site", "cell", "struct_conn", "chem_comp_bond", "pdbx_poly_seq_scheme", "pdbx_struct_mod_residue")
_MOST_ATOMS = 99_999  # with serial numbers of five digits


@dataclass(frozen=True)
class _Site:
    """What is in a row of atom_site beyond the atom.

    key : how struct_conn names it;  segment : changes where a chain of the file ends;  group : ATOM or HETATM
    """

    key: tuple[str, str, str, str]
    segment: tuple[str, str]
    group: str


def clean_mmcif(path: Path, text: str, chains: Sequence[str] = ()) -> Cleaned:
    """The structure in `text`, which the mmCIF file at `path` holds, as PDB text: first model, one location an atom.

    chains : identifiers (auth_asym_id, as in the PDB file) of the chains to keep; all of them if empty

    Names and numbers are the author's, as in a PDB file. Bonds of struct_conn and chem_comp_bond become CONECT records,
    the sequence (pdbx_poly_seq_scheme) and modified residues (pdbx_struct_mod_residue) become SEQRES and MODRES. Chains
    with longer identifiers get a letter, residues with longer names a new one, which is told. Raises InputError for a
    file that is no mmCIF file, for coordinates that are no finite numbers, for an atom that is there twice, for a chain
    that is not there, and for what PDB columns cannot hold.
    """
    tables = next((block for block in read_cif(text, str(path), _USED) if block.get("atom_site")), None)
    if tables is None:
        raise InputError(f"{path} holds no atoms (_atom_site): is it a PDBx/mmCIF file of coordinates?")
    first, models = _first_model(tables["atom_site"])
    sites = [_site(row) for row in first]
    atoms, notes = select(path, [_atom(path, k, row) for k, row in enumerate(first)], models, chains)
    for cell in tables.get("cell", []):
        notes += box_notes([cell.get(f"length_{edge}") for edge in "abc"])
    bonds = [*_connections(tables, atoms, sites), *_residue_bonds(tables, atoms)]
    letters, names = _letters(path, atoms, notes), _short_names(atoms, notes)
    lines = [
        *_sequences(tables, letters, names),
        *_modified(tables, letters, names),
        *_atom_lines(path, atoms, sites, letters, names),
        *conect_records(bonds, [str(serial) for serial in range(1, len(atoms) + 1)]),
    ]
    return Cleaned("\n".join([*lines, "END", ""]), notes, [atom.position for atom in atoms])


# reading ------------------------------------------------------------------------------------------------------------


def _first_model(rows: list[Row]) -> tuple[list[Row], int]:
    """The rows of the first model, and the number of models."""
    models = list(dict.fromkeys(row.get("pdbx_pdb_model_num") for row in rows))
    return [row for row in rows if row.get("pdbx_pdb_model_num") == models[0]], len(models)


def _atom(path: Path, number: int, row: Row) -> Atom:
    where = f"{path}, line {row.line}"
    name, residue_name = (row.get(f"auth_{what}_id", f"label_{what}_id") for what in ("atom", "comp"))
    residue = row.get("auth_seq_id", "label_seq_id") or "1"  # a ligand without a number is a chain of its own
    residue += row.get("pdbx_pdb_ins_code")
    label = f"{residue_name}{residue}-{name}"
    if not name or not residue_name:
        raise InputError(f"{where}: the atom has no name or no residue; give label_atom_id and label_comp_id")
    position = tuple(
        coordinate(
            row.get(f"cartn_{axis}"), f"{axis} of {label}", where, f"(Cartn_{axis}): give coordinates in Angstrom"
        )
        for axis in "xyz"
    )
    return Atom(
        row=number,
        line=row.line,
        serial=row.get("id"),
        name=name,
        alternate=row.get("label_alt_id"),
        residue_name=residue_name,
        chain=row.get("auth_asym_id", "label_asym_id") or "A",
        number=residue,
        element=row.get("type_symbol").upper(),
        position=position,
        occupancy=occupancy(row.get("occupancy")),
    )


def _key(row: Row, end: str = "") -> tuple[str, str, str, str]:
    """What names an atom in struct_conn: chain, residue's number and name, atom; the author's where there is no other.

    end : "", or "ptnr1_" and "ptnr2_" for the two of a row of struct_conn
    """
    kinds = ("asym", "seq", "comp", "atom")
    return tuple(row.get(f"{end}label_{kind}_id", f"{end}auth_{kind}_id") for kind in kinds)


def _site(row: Row) -> _Site:
    group = "HETATM" if row.get("group_pdb") == "HETATM" else "ATOM"
    return _Site(_key(row), (row.get("label_asym_id"), row.get("auth_asym_id")), group)


# bonds --------------------------------------------------------------------------------------------------------------


def _connections(tables: Tables, atoms: list[Atom], sites: list[_Site]) -> list[tuple[int, int]]:
    """The bonds (i, j) of struct_conn whose two atoms are there, in one and the same copy of the molecule."""
    index: dict[tuple, int] = {}
    for i, atom in enumerate(atoms):
        index.setdefault(sites[atom.row].key, i)
    bonds = []
    for row in tables.get("struct_conn", []):
        ends = [index.get(_key(row, end)) for end in ("ptnr1_", "ptnr2_")]
        same_copy = row.get("ptnr1_symmetry") == row.get("ptnr2_symmetry")
        if row.get("conn_type_id").lower().startswith(_BONDS) and None not in ends and same_copy:
            bonds.append((ends[0], ends[1]))
    return bonds


def _residue_bonds(tables: Tables, atoms: list[Atom]) -> list[tuple[int, int]]:
    """The bonds (i, j) that chem_comp_bond has for the residues that are there."""
    residues: dict[tuple, dict[str, int]] = {}
    for i, atom in enumerate(atoms):
        residues.setdefault((atom.residue_name, *atom.residue), {})[atom.name] = i
    pairs: dict[str, list[tuple[str, str]]] = {}
    for row in tables.get("chem_comp_bond", []):
        pairs.setdefault(row.get("comp_id"), []).append((row.get("atom_id_1"), row.get("atom_id_2")))
    return [
        (index[a], index[b])
        for (name, *_), index in residues.items()
        for a, b in pairs.get(name, [])
        if a in index and b in index
    ]


# writing ------------------------------------------------------------------------------------------------------------


def _letters(path: Path, atoms: list[Atom], notes: list[str]) -> dict[str, str]:
    """{chain: the letter that it has in PDB text}: its own, or a free one for a longer identifier."""
    chains = list(dict.fromkeys(atom.chain for atom in atoms))
    free = (letter for letter in _LETTERS if letter not in chains)
    letters = {}
    for chain in chains:
        letters[chain] = chain if len(chain) == 1 else next(free, "")
        if not letters[chain]:
            raise InputError(f"{path} has {len(chains)} chains, more than PDB text can name: choose some with --chains")
        if letters[chain] != chain:
            notes.append(f"chain '{chain}' is called '{letters[chain]}': chains of a PDB file have one letter")
    return letters


def _short_names(atoms: list[Atom], notes: list[str]) -> dict[str, str]:
    """{residue name: the one in PDB text}: its own, or a new one for a name of more than four letters.

    A force field knows such a residue by its atoms and bonds.
    """
    names = {}
    for name in dict.fromkeys(atom.residue_name for atom in atoms):
        names[name] = name if len(name) <= 4 else f"L{sum(len(other) > 4 for other in names) + 1:02d}"
        if names[name] != name:
            notes.append(f"residue {name} is called {names[name]}: names of a PDB file have up to four letters")
    return names


def _atom_lines(
    path: Path, atoms: list[Atom], sites: list[_Site], letters: dict[str, str], names: dict[str, str]
) -> list[str]:
    """ATOM and HETATM records numbered from 1, with a TER record behind each chain of the file."""
    if len(atoms) > _MOST_ATOMS:
        raise InputError(f"{path} has {len(atoms)} atoms, more than PDB text can number: choose chains with --chains")
    lines: list[str] = []
    for serial, atom in enumerate(atoms, 1):
        site = sites[atom.row]
        if serial > 1 and site.segment != sites[atoms[serial - 2].row].segment:
            lines.append("TER")
        name = f" {atom.name}" if len(atom.name) < 4 and len(atom.element) < 2 else atom.name
        number = atom.number.rstrip(string.ascii_letters)
        insertion = atom.number[len(number) :]
        residue_name = f"{names[atom.residue_name]:>3s}"
        line = (
            f"{site.group:6s}{serial:5d} {name:4s} {residue_name:4s}{letters[atom.chain]}{number:>4s}{insertion:1s}   "
            f"{''.join(f'{value:8.3f}' for value in atom.position)}{1:6.2f}{0:6.2f}"
            f"          {atom.element:>2s}"
        )
        if len(line) != 78:
            raise InputError(
                f"{path}, line {atom.line}: {atom.label} at {', '.join(f'{v:g}' for v in atom.position)} A "
                "does not fit the columns of a PDB file: shorten names and numbers to four characters, and shift the "
                "structure to the origin"
            )
        lines.append(line)
    return [*lines, "TER"]


def _sequences(tables: Tables, letters: dict[str, str], names: dict[str, str]) -> Iterable[str]:
    """SEQRES records of the chains that are kept."""
    sequences: dict[str, dict[tuple[str, str], str]] = {}
    for row in tables.get("pdbx_poly_seq_scheme", []):
        place = (row.get("asym_id"), row.get("seq_id"))
        sequences.setdefault(row.get("pdb_strand_id"), {}).setdefault(place, row.get("mon_id"))
    for chain, by_place in sequences.items():
        if chain not in letters:
            continue
        sequence = [names.get(name, name) for name in by_place.values()]
        for k in range(0, len(sequence), 13):
            words = "".join(f" {name:>3s}" for name in sequence[k : k + 13])
            yield f"SEQRES {k // 13 + 1:3d} {letters[chain]} {len(sequence):4d} {words}"


def _modified(tables: Tables, letters: dict[str, str], names: dict[str, str]) -> Iterable[str]:
    """MODRES records of the chains that are kept, for residues that have a standard parent."""
    for row in tables.get("pdbx_struct_mod_residue", []):
        chain, name, parent = row.get("auth_asym_id"), row.get("auth_comp_id"), row.get("parent_comp_id")
        if chain in letters and name and parent:
            number = f"{row.get('auth_seq_id'):>4s}{row.get('pdb_ins_code'):1s}"
            yield f"MODRES      {names.get(name, name)[:3]:>3s} {letters[chain]} {number} {parent:>3s}"
