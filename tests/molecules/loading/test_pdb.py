"""PDB files as they come: what is chosen, what is told, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from openmm import app

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.pdb import parse_pdb, read_pdb
from tests.molecules.structures import VILLIN, dipeptide_atoms, written

ATOMS = dipeptide_atoms()


def coordinates(lines) -> np.ndarray:
    return np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in lines]) / 10.0


def moved(line: str, dx: float, alternate: str = " ", occupancy: float = 1.0) -> str:
    """The record with x shifted by dx (Angstrom), an alternate location indicator and an occupancy."""
    return f"{line[:16]}{alternate}{line[17:30]}{float(line[30:38]) + dx:8.3f}{line[38:54]}{occupancy:6.2f}{line[60:]}"


def test_positions_and_bonds_are_those_of_the_file(tmp_path):
    found = read_pdb(written(tmp_path / "a.pdb", *ATOMS))
    np.testing.assert_allclose(found.positions, coordinates(ATOMS), atol=1e-9)
    assert found.positions.dtype == np.float64 and found.notes == ()
    assert (found.topology.getNumAtoms(), found.topology.getNumBonds()) == (22, 21)


def test_crlf_and_cr_line_ends_make_no_difference(tmp_path):
    expected = read_pdb(written(tmp_path / "a.pdb", *ATOMS))
    for ends in ("\r\n", "\r"):
        (tmp_path / "b.pdb").write_bytes(ends.join(ATOMS).encode())
        found = read_pdb(tmp_path / "b.pdb")
        assert found.text == expected.text and "\r" not in found.text


def test_the_first_of_several_models_is_taken_and_told(tmp_path):
    others = [moved(line, 1.0) for line in ATOMS]
    by_model = ["MODEL        1", *ATOMS, "ENDMDL", "MODEL        2", *others, "ENDMDL", "MODEL        3", *others]
    by_end = [*ATOMS, "END", *others, "END", *others]
    for lines in (by_model, by_end):
        found = read_pdb(written(tmp_path / "a.pdb", *lines))
        np.testing.assert_allclose(found.positions, coordinates(ATOMS), atol=1e-9)
        assert found.notes == ("3 models: the first one is taken",)


def test_the_alternate_location_of_highest_occupancy_is_taken_and_told(tmp_path):
    places = [k for k, line in enumerate(ATOMS) if line[12:16].strip() in ("CB", "HB1")]
    lines, expected = [], coordinates(ATOMS)
    for k, line in enumerate(ATOMS):
        lines += [moved(line, 0.0, "A", 0.4), moved(line, 0.05, "B", 0.6)] if k in places else [line]
    expected[places, 0] += 0.005
    found = read_pdb(written(tmp_path / "a.pdb", *lines))
    np.testing.assert_allclose(found.positions, expected, atol=1e-9)
    assert found.notes == ("alternate locations: taken is B of ALA2, of the highest occupancy",)
    assert all(line[16] == " " for line in found.text.splitlines() if line.startswith("ATOM"))


def test_of_two_residues_at_one_place_the_atoms_of_one_are_kept(tmp_path):
    """Microheterogeneity: serine with 0.7 and alanine with 0.3 at the same number."""
    lines = []
    for line in ATOMS:
        if line[17:20] != "ALA":
            lines.append(line)
            continue
        lines.append(moved(line, 0.0, "A", 0.7))
        if line[12:16].strip() in ("N", "CA", "C", "O", "CB"):
            lines.append(moved(line, 0.1, "B", 0.3).replace("ALA", "SER"))
    found = read_pdb(written(tmp_path / "a.pdb", *lines))
    np.testing.assert_allclose(found.positions, coordinates(ATOMS), atol=1e-9)


def test_an_alternate_location_letter_without_an_alternative_is_no_choice(tmp_path):
    found = read_pdb(written(tmp_path / "a.pdb", *[moved(line, 0.0, "A") for line in ATOMS]))
    assert found.topology.getNumAtoms() == 22 and found.notes == ()


def test_a_box_is_left_out_and_told_but_the_unit_cube_is_no_box(tmp_path):
    box = "CRYST1   30.000   31.000   32.000  90.00  90.00  90.00 P 1           1"
    found = read_pdb(written(tmp_path / "a.pdb", box, *ATOMS))
    assert found.notes == ("the box (30 x 31 x 32 A) is left out: the molecule is sampled alone",)
    assert found.topology.getPeriodicBoxVectors() is None and "CRYST1" not in found.text
    nothing = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1"
    assert read_pdb(written(tmp_path / "a.pdb", nothing, *ATOMS)).notes == ()


def test_chains_are_chosen_by_name(tmp_path):
    other = [f"{line[:21]}B{line[22:]}" for line in ATOMS]
    path = written(tmp_path / "a.pdb", *ATOMS, "TER", *[moved(line, 20.0) for line in other], "TER")
    assert read_pdb(path).topology.getNumAtoms() == 44
    found = read_pdb(path, ["B"])
    np.testing.assert_allclose(found.positions[:, 0], coordinates(ATOMS)[:, 0] + 2.0, atol=1e-9)
    assert found.notes == ("chains 'A' are left out",)
    with pytest.raises(InputError, match="no chain 'C'; it has 'A', 'B'"):
        read_pdb(path, ["C"])


def ends(lines) -> tuple[str, str]:
    """Serial numbers of ACE's CH3 and NME's N, which no bond joins."""
    named = {(line[17:20], line[12:16].strip()): line[6:11] for line in lines}
    return named["ACE", "CH3"], named["NME", "N"]


def test_conect_records_are_bonds_and_stay_in_the_clean_text(tmp_path):
    i, j = ends(ATOMS)
    found = read_pdb(written(tmp_path / "a.pdb", *ATOMS, f"CONECT{i}{j}", "CONECT 9998 9999"))
    assert found.topology.getNumBonds() == 22
    assert parse_pdb(found.text, "again").topology.getNumBonds() == 22
    assert [line for line in found.text.splitlines() if line.startswith("CONECT")] == [f"CONECT{i}{j}"]


def test_a_link_record_between_carbon_and_nitrogen_is_a_bond(tmp_path):
    link = "LINK         CH3 ACE A   1                 N   NME A   3     1555   1555  1.34"
    found = read_pdb(written(tmp_path / "a.pdb", link, *ATOMS))
    assert found.topology.getNumBonds() == 22
    for other in (link.replace("NME A   3", "NME A   7"), link.replace("1555   1555", "1555   2555")):
        assert read_pdb(written(tmp_path / "a.pdb", other, *ATOMS)).topology.getNumBonds() == 21


def test_a_link_record_is_a_bond_where_the_element_columns_are_blank(tmp_path):
    """Elements are then guessed from the names, as OpenMM does: a sodium ion is no nitrogen."""
    atoms = [line[:76] for line in ATOMS]
    link = "LINK         CH3 ACE A   1                 N   NME A   3     1555   1555  1.34"
    assert read_pdb(written(tmp_path / "a.pdb", link, *atoms)).topology.getNumBonds() == 22
    ion = "HETATM   23 NA    NA A   4      20.000  20.000  20.000  1.00  0.00"
    other = link.replace("N   NME A   3", "NA   NA A   4")
    assert read_pdb(written(tmp_path / "a.pdb", other, *atoms, ion)).topology.getNumBonds() == 21


def test_a_whole_simulation_box_is_read_as_openmm_reads_it():
    found, expected = read_pdb(VILLIN), app.PDBFile(str(VILLIN))
    assert found.topology.getNumAtoms() == expected.topology.getNumAtoms()
    assert found.topology.getNumBonds() == expected.topology.getNumBonds()


def replaced(k: int, columns: slice, text: str) -> list[str]:
    """The records with text, right-aligned, in the columns of record k."""
    line = ATOMS[k]
    width = columns.stop - columns.start
    return [*ATOMS[:k], f"{line[: columns.start]}{text:>{width}s}{line[columns.stop :]}", *ATOMS[k + 1 :]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (replaced(4, slice(30, 38), "nan"), r"line 5: x of ACE1-C is nan; give a finite number"),
        (replaced(4, slice(38, 46), "inf"), r"line 5: y of ACE1-C is inf"),
        (replaced(4, slice(46, 54), "1.2.3"), r"line 5: '1.2.3' is no number for z of ACE1-C \(columns 47 to 54\)"),
        ([*ATOMS[:5], ATOMS[4], *ATOMS[5:]], "ACE1-C is there twice, in lines 5 and 6"),
    ],
)
def test_faulty_records_are_named(lines, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_pdb(written(tmp_path / "a.pdb", *lines))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \r\n \n", "is empty"),
        (b"this is no PDB file\n", "no ATOM or HETATM records"),
        (bytes(range(256)) * 8, "no ATOM or HETATM records"),
        (gzip.compress("\n".join(ATOMS).encode()), "compressed"),
        (b"ATOM      1  CH3 ACE A   1      x\n", "line 1: 'x' is no number"),
    ],
)
def test_a_file_that_is_no_pdb_file(content, words, tmp_path):
    (tmp_path / "a.pdb").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_pdb(tmp_path / "a.pdb")
    assert str(tmp_path / "a.pdb") in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    for path in (tmp_path / "never.pdb", tmp_path, Path("~")):
        with pytest.raises(InputError, match="check the path"):
            read_pdb(path)
