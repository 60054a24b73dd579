"""PDBx/mmCIF files: the same structure as from the PDB file, the same choices and refusals."""

from __future__ import annotations

import io
from pathlib import Path

import mdtraj as md
import numpy as np
import pytest
from openmm import app
from openmm.app.internal.pdbstructure import PdbStructure

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.pdb import Structure, read_pdb
from tests.molecules.loading.test_pdb import moved
from tests.molecules.structures import VILLIN, atom_lines, capped_segment, dipeptide_atoms, written

ATOMS = dipeptide_atoms()
SYSTEMS = Path(__file__).resolve().parents[3] / "systems"
COLUMNS = (
    *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id"),
    *("label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy"),
    *("auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id", "pdbx_PDB_model_num"),
)


def row(line: str, model: int = 1) -> list[str]:
    """The values of COLUMNS for an ATOM or HETATM record, as the PDB's own files have them."""
    name, alternate, residue, chain = line[12:16].strip(), line[16].strip() or ".", line[17:20].strip(), line[21]
    x, y, z = (line[k : k + 8].strip() for k in (30, 38, 46))
    number = line[22:26].strip()
    quoted = f'"{name}"' if "'" in name else name
    return [
        *(line[:6].strip(), line[6:11].strip(), line[76:78].strip(), quoted, alternate, residue, chain, "1", number),
        *(line[26].strip() or "?", x, y, z, line[54:60].strip(), number, residue, chain, quoted, str(model)),
    ]


def table(category: str, columns: tuple[str, ...] | list[str], rows: list[list[str]]) -> str:
    return "\n".join(["loop_", *(f"_{category}.{c}" for c in columns), *map(" ".join, rows), "#", ""])


def cif(path: Path, rows: list[list[str]], *others: str, columns: tuple[str, ...] = COLUMNS) -> Path:
    path.write_text("data_MINE\n#\n" + "".join(others) + table("atom_site", columns, rows))
    return path


def described(structure: Structure) -> tuple:
    """Everything in a topology by value, and its bonds."""
    topology = structure.topology
    atoms = [
        (a.name, a.element, a.residue.name, a.residue.id, a.residue.insertionCode, a.residue.chain.id, a.residue.index)
        for a in topology.atoms()
    ]
    return atoms, {frozenset((a.index, b.index)) for a, b in topology.bonds()}, topology.getNumChains()


def assert_same(found: Structure, expected: Structure, atol: float = 1e-9) -> None:
    assert described(found) == described(expected)
    assert found.notes == expected.notes
    np.testing.assert_allclose(found.positions, expected.positions, atol=atol)


@pytest.mark.parametrize("name", ["dipeptide", "segment", "villin in water", "paracetamol"])
def test_the_same_molecule_through_both_formats(name, tmp_path):
    """Both written by OpenMM."""
    text = {
        "dipeptide": "\n".join([*ATOMS, "END"]),
        "segment": capped_segment(10, 13),
        "villin in water": "\n".join(k for k in VILLIN.read_text().splitlines() if not k.startswith("CRYST1")),
        "paracetamol": (SYSTEMS / "paracetamol" / "input.pdb").read_text(),
    }[name]
    read = app.PDBFile(io.StringIO(text))
    for kind, path in ((app.PDBFile, tmp_path / "a.pdb"), (app.PDBxFile, tmp_path / "a.cif")):
        kind.writeFile(read.topology, read.positions, str(path))
    assert_same(read_pdb(tmp_path / "a.cif"), read_pdb(tmp_path / "a.pdb"))


def test_the_text_is_that_of_the_pdb_file(tmp_path):
    """Column by column: other programs read it too."""
    found = read_pdb(cif(tmp_path / "a.cif", [row(line) for line in ATOMS]))
    assert found.text.splitlines() == [*[line.rstrip() for line in ATOMS], "TER", "END"]


def test_a_file_by_mdtraj(tmp_path):
    pdb = written(tmp_path / "a.pdb", *ATOMS)
    md.load(str(pdb)).save_cif(str(tmp_path / "b.cif"))
    found, expected = read_pdb(tmp_path / "b.cif"), read_pdb(pdb)
    assert described(found)[1] == described(expected)[1]
    assert [a.name for a in found.topology.atoms()] == [a.name for a in expected.topology.atoms()]
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-5)


def test_positions_have_all_the_digits_of_the_file(tmp_path):
    rows = [row(line) for line in ATOMS]
    rows[3][10:13] = ["1.486123", "2.4543219", "-0.0000004"]
    found = read_pdb(cif(tmp_path / "a.cif", rows))
    np.testing.assert_allclose(found.positions[3], [0.1486123, 0.24543219, -0.00000004], atol=1e-15)


def cases() -> dict[str, tuple[list[str], list[list[str]], tuple[str, ...]]]:
    """{name: (PDB records, rows of atom_site, chains)} of one and the same content."""
    many = [[moved(line, 1.0 * k) for line in ATOMS] for k in range(3)]
    models = [record for k, lines in enumerate(many, 1) for record in (f"MODEL     {k:4d}", *lines, "ENDMDL")]
    places = [[moved(line, 0.0, "A", 0.4), moved(line, 0.05, "B", 0.6)] for line in ATOMS if line[12:16] == " CB "]
    alternates = [record for line in ATOMS for record in (places[0] if line[12:16] == " CB " else [line])]
    mixed = []
    for line in ATOMS:
        mixed.append(moved(line, 0.0, "A", 0.7) if line[17:20] == "ALA" else line)
        if line[17:20] == "ALA" and line[12:16].strip() in ("N", "CA", "C", "O", "CB"):
            mixed.append(moved(line, 0.1, "B", 0.3).replace("ALA", "SER"))
    other = [moved(f"{line[:21]}B{line[22:]}", 20.0) for line in ATOMS]
    inserted = [line if line[17:20] != "NME" else f"{line[:22]}   2A{line[27:]}" for line in ATOMS]
    return {
        "models": (models, [row(line, k) for k, lines in enumerate(many, 1) for line in lines], ()),
        "alternates": (alternates, [row(line) for line in alternates], ()),
        "two residues at one place": (mixed, [row(line) for line in mixed], ()),
        "chains": ([*ATOMS, "TER", *other, "TER"], [row(line) for line in (*ATOMS, *other)], ()),
        "a chain": ([*ATOMS, "TER", *other, "TER"], [row(line) for line in (*ATOMS, *other)], ("B",)),
        "insertion code": (inserted, [row(line) for line in inserted], ()),
    }


@pytest.mark.parametrize("name", cases())
def test_what_is_chosen_is_the_same_in_both_formats(name, tmp_path):
    lines, rows, chains = cases()[name]
    expected = read_pdb(written(tmp_path / "a.pdb", *lines), chains)
    assert_same(read_pdb(cif(tmp_path / "a.cif", rows), chains), expected)
    assert bool(expected.notes) == (name not in ("chains", "insertion code"))


def test_a_chain_ends_where_label_asym_id_changes(tmp_path):
    """In the PDB's files ligands and waters have the author's chain of their polymer and a label of their own."""
    other = [moved(f"{line[:22]}{int(line[22:26]) + 10:4d}{line[26:]}", 20.0) for line in ATOMS]
    rows = [row(line) for line in (*ATOMS, *other)]
    for values in rows[22:]:
        values[COLUMNS.index("label_asym_id")] = "B"
    expected = read_pdb(written(tmp_path / "a.pdb", *ATOMS, "TER", *other, "TER"))
    assert_same(read_pdb(cif(tmp_path / "a.cif", rows)), expected)
    assert [chain.id for chain in expected.topology.chains()] == ["A", "A"]


def test_elements_are_those_of_type_symbol(tmp_path):
    rows = [row(line) for line in ATOMS]
    for values, name, symbol in zip(rows, ("XA", "X1", "CL1"), ("Ca", "H", "C"), strict=False):
        values[2], values[3], values[17] = symbol, name, name
    found = [(a.name, a.element.symbol) for a in read_pdb(cif(tmp_path / "a.cif", rows)).topology.atoms()]
    assert found[:3] == [("XA", "Ca"), ("X1", "H"), ("CL1", "C")]


def test_a_box_is_left_out_and_told(tmp_path):
    cell = "".join(f"_cell.length_{edge} {size}\n" for edge, size in zip("abc", ("30.00", "31", "32.0"), strict=True))
    found = read_pdb(cif(tmp_path / "a.cif", [row(line) for line in ATOMS], cell + "#\n"))
    assert found.notes == ("the box (30 x 31 x 32 A) is left out: the molecule is sampled alone",)
    assert found.topology.getPeriodicBoxVectors() is None


CONNECTION = (
    *("id", "conn_type_id", "ptnr1_label_asym_id", "ptnr1_label_comp_id", "ptnr1_label_seq_id", "ptnr1_label_atom_id"),
    *("ptnr1_symmetry", "ptnr2_label_asym_id", "ptnr2_label_comp_id", "ptnr2_label_seq_id", "ptnr2_label_atom_id"),
    "ptnr2_symmetry",
)


def connection(kind: str = "covale", number: str = "3", symmetry: str = "1_555") -> str:
    """ACE's CH3 to NME's N, which no table of residues joins."""
    values = ["c1", kind, "A", "ACE", "1", "CH3", "1_555", "A", "NME", number, "N", symmetry]
    return table("struct_conn", CONNECTION, [values])


def test_a_ring_is_closed_by_struct_conn(tmp_path):
    rows = [row(line) for line in ATOMS]
    assert read_pdb(cif(tmp_path / "a.cif", rows)).topology.getNumBonds() == 21
    found = read_pdb(cif(tmp_path / "a.cif", rows, connection()))
    ends = {(a.residue.name, a.name) for bond in found.topology.bonds() for a in bond if bond[0].residue.name == "ACE"}
    assert found.topology.getNumBonds() == 22 and ("NME", "N") in ends
    for other in (connection("hydrog"), connection("metalc"), connection(number="7"), connection(symmetry="2_555")):
        assert read_pdb(cif(tmp_path / "a.cif", rows, other)).topology.getNumBonds() == 21


def test_a_cyclic_peptide_is_the_one_of_the_pdb_file(tmp_path):
    """The bond between the last C and the first N is in no table: the only one that OpenMM's writer leaves out."""
    expected = read_pdb(SYSTEMS / "cyclo_phe_pro" / "input.pdb")
    lines = atom_lines(expected.text)
    values = ["c1", "covale", "A", "PHE", "1", "N", "?", "A", "PRO", "2", "C", "?"]
    rows = [row(line) for line in lines]
    found = read_pdb(cif(tmp_path / "a.cif", rows, table("struct_conn", CONNECTION, [values])))
    assert_same(found, expected)
    assert len(described(found)[1]) == 36


def test_bonds_of_chem_comp_bond(tmp_path):
    """A residue that no table knows, with the bonds that the file gives for it."""
    expected = read_pdb(SYSTEMS / "paracetamol" / "input.pdb")
    bonds = [[f"TYL {a.name} {b.name}"] for a, b in expected.topology.bonds()]
    rows = [row(line) for line in atom_lines(expected.text)]
    given = table("chem_comp_bond", ("comp_id", "atom_id_1", "atom_id_2"), [*bonds, ["TYL C99 C98"], ["XXX C24 O25"]])
    assert_same(read_pdb(cif(tmp_path / "a.cif", rows, given)), expected)
    assert read_pdb(cif(tmp_path / "a.cif", rows)).topology.getNumBonds() == 0


def test_names_that_pdb_columns_cannot_hold_are_changed_and_told(tmp_path):
    rows = [row(line) for line in ATOMS]
    for values in rows:
        values[6] = values[16] = "AA"
        if values[5] == "NME":
            values[5] = values[15] = "A1LU6"
    found = read_pdb(cif(tmp_path / "a.cif", rows), ["AA"])
    assert found.notes == (
        "chain 'AA' is called 'A': chains of a PDB file have one letter",
        "residue A1LU6 is called L01: names of a PDB file have up to four letters",
    )
    assert [residue.name for residue in found.topology.residues()] == ["ACE", "ALA", "L01"]
    np.testing.assert_allclose(found.positions, read_pdb(written(tmp_path / "a.pdb", *ATOMS)).positions, atol=1e-12)
    with pytest.raises(InputError, match="no chain 'A'; it has 'AA'"):
        read_pdb(tmp_path / "a.cif", ["A"])


def test_sequence_and_modified_residues_are_there_for_pdbfixer(tmp_path):
    scheme = table(
        "pdbx_poly_seq_scheme",
        ("asym_id", "entity_id", "seq_id", "mon_id", "pdb_strand_id"),
        [["A", "1", str(k), name, "A"] for k, name in enumerate(["ACE", "ALA", "GLY", "NME"], 1)] + [["B 1 1 GLY B"]],
    )
    changed = table(
        "pdbx_struct_mod_residue",
        ("id", "auth_asym_id", "auth_comp_id", "auth_seq_id", "PDB_ins_code", "parent_comp_id"),
        [["1", "A", "MSE", "5", "?", "MET"], ["2", "B", "MSE", "5", "?", "MET"]],
    )
    head = read_pdb(cif(tmp_path / "a.cif", [row(line) for line in ATOMS], scheme, changed)).text.splitlines()[:3]
    assert head[:2] == ["SEQRES   1 A    4  ACE ALA GLY NME", "MODRES      MSE A    5  MET"]
    read = PdbStructure(io.StringIO("\n".join([*head, "END"])))
    assert [(s.chain_id, s.residues) for s in read.sequences] == [("A", ["ACE", "ALA", "GLY", "NME"])]
    (modified,) = read.modified_residues
    assert (modified.chain_id, modified.number, modified.residue_name, modified.standard_name) == ("A", 5, "MSE", "MET")


def test_a_minimal_file_and_crlf_line_ends(tmp_path):
    """Columns that a structure can do without are not asked for."""
    few = ("id", "type_symbol", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id", *COLUMNS[10:13])
    rows = [[values[COLUMNS.index(name)] for name in few] for values in map(row, ATOMS)]
    path = cif(tmp_path / "a.cif", rows, columns=few)
    expected = read_pdb(written(tmp_path / "a.pdb", *ATOMS))
    assert_same(read_pdb(path), expected)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert_same(read_pdb(path), expected)


def test_the_content_tells_the_format_and_not_the_name(tmp_path):
    expected = read_pdb(written(tmp_path / "a.cif", *ATOMS))
    assert_same(read_pdb(cif(tmp_path / "b.pdb", [row(line) for line in ATOMS])), expected)


def broken(k: int, column: str, value: str) -> list[list[str]]:
    rows = [row(line) for line in ATOMS]
    rows[k][COLUMNS.index(column)] = value
    return rows


FIRST = len(COLUMNS) + 4  # the line of the first row that `cif` writes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (broken(4, "Cartn_x", "nan"), f"line {FIRST + 4}: x of ACE1-C is nan; give a finite number"),
        (broken(4, "Cartn_y", "?"), rf"line {FIRST + 4}: '' is no number for y of ACE1-C \(Cartn_y\)"),
        (broken(4, "Cartn_z", "1.2.3"), f"line {FIRST + 4}: '1.2.3' is no number for z of ACE1-C"),
        (broken(4, "Cartn_z", "123456.7"), f"line {FIRST + 4}: ACE1-C at .* does not fit"),
        (broken(4, "auth_seq_id", "12345"), f"line {FIRST + 4}: ACE12345-C at .* does not fit"),
        (broken(4, "auth_atom_id", "CCCCC"), f"line {FIRST + 4}: ACE1-CCCCC at .* does not fit"),
        (broken(5, "auth_atom_id", "C"), f"ACE1-C is there twice, in lines {FIRST + 4} and {FIRST + 5}"),
        (broken(4, "label_alt_id", "'A"), f"line {FIRST + 4}: the quote before A has no end"),
        (
            broken(21, "Cartn_z", "1.0 2.0"),
            f"line {FIRST + 21}: the last row .* has 1 values for 19 columns",
        ),
        ([*map(row, ATOMS[:-1]), row(ATOMS[-1])[:12]], f"line {FIRST + 21}: .* 12 values for 19 .* cut off or damaged"),
    ],
)
def test_faulty_rows_are_named(rows, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        read_pdb(cif(tmp_path / "a.cif", rows))
    assert str(tmp_path / "a.cif") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data_1ABC\n", "holds no atoms"),
        ("data_1ABC\nloop_\n_atom_site.id\n", "holds no atoms"),
        ("data_x\nloop_\n_atom_site_label\n_atom_site_fract_x\nC1 0.1\n", "holds no atoms.*PDBx/mmCIF file"),
        ("data_1ABC\n_atom_site.id 1\n", "line 2: the atom has no name"),
        ("data_1ABC\nloop_\nloop_\n", "line 2: loop_ without columns"),
        ("data_1ABC\n_atom_site.id\n_atom_site.x\n", "line 2: _atom_site.id has no value"),
        ("data_1ABC\n_atom_site.id", "line 2: _atom_site.id has no value"),
        ("data_1ABC\nsome words\n", "line 2: 'some' is out of place"),
        ("data_1ABC\nglobal_\n", "line 2: 'global_' is out of place"),
        ("_atom_site.id 1\ndata_1ABC\n", "line 1: '_atom_site.id' comes before data_"),
        ("data_1ABC\n_a.b\n;no end\n", "line 3: the text that begins with ';' has no end"),
    ],
)
def test_a_file_without_a_structure(text, words, tmp_path):
    (tmp_path / "a.cif").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_pdb(tmp_path / "a.cif")
    assert str(tmp_path / "a.cif") in str(caught.value) and "\n" not in str(caught.value)


def test_a_system_names_an_mmcif_file(tmp_path):
    cif(tmp_path / "it.cif", [row(line) for line in ATOMS])
    toml = 'temperature = 300.0\npdb = "it.cif"\nforcefield = ["amber14-all.xml", "implicit/obc2.xml"]\n'
    (tmp_path / "system.toml").write_text(toml)
    molecule = load_molecule(tmp_path)
    assert (molecule.n_atoms, len(molecule.bonds)) == (22, 21)
