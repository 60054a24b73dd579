"""--fix: what PDBFixer changes is what is told, and nothing else changes."""

from __future__ import annotations

import builtins
import random

import numpy as np
import pytest

from molsampler.basis.errors import InputError
from molsampler.molecules.dynamics.minimum import potential_energy
from molsampler.molecules.facts import alpha_handedness
from molsampler.molecules.loading.fixer import fix_structure, relax
from molsampler.molecules.loading.force_field import create_system
from molsampler.molecules.loading.pdb import parse_pdb
from molsampler.store.pdb import pdb_text
from tests.molecules.structures import (
    FORCE_FIELD,
    VILLIN,
    atom_lines,
    capped_segment,
    dipeptide_atoms,
    without_hydrogens,
)

pytest.importorskip("pdbfixer", reason="PDBFixer is an extra")
ATOMS = dipeptide_atoms()


def fixed(lines, ph: float = 7.0):
    return fix_structure(parse_pdb("\n".join([*lines, "END", ""]), "it"), ph, "it")


def names(structure) -> list[tuple[str, str]]:
    return sorted((a.residue.name, a.name) for a in structure.topology.atoms())


def villin(first: int, last: int) -> list[str]:
    """Residues first to last of villin as chain A, with hydrogens and broken ends."""
    lines = [line for line in atom_lines(VILLIN.read_text()) if line[17:20] not in ("HOH", " Cl")]
    return [f"{line[:21]}A{line[22:]}" for line in lines if first <= int(line[22:26]) <= last]


def test_a_whole_molecule_is_left_as_it_is():
    found = fixed(ATOMS)
    assert found.notes == ()
    np.testing.assert_allclose(found.positions, parse_pdb("\n".join([*ATOMS, ""]), "it").positions, atol=1e-6)


def test_missing_hydrogens_come_back():
    found = fixed(without_hydrogens(ATOMS))
    assert found.notes == ("added 12 hydrogens at pH 7",)
    assert names(found) == names(parse_pdb("\n".join([*ATOMS, ""]), "it"))


def test_missing_heavy_atoms_come_back():
    found = fixed([line for line in ATOMS if line[12:16].strip() not in ("CB", "HB1", "HB2", "HB3")])
    assert found.notes == ("added CB to ALA2", "added 3 hydrogens at pH 7")
    assert names(found) == names(parse_pdb("\n".join([*ATOMS, ""]), "it"))


def test_water_ions_and_other_molecules_are_removed():
    others = [
        "HETATM  901  O   HOH W   1      20.000  20.000  20.000  1.00  0.00           O",
        "HETATM  902  O   HOH W   2      24.000  20.000  20.000  1.00  0.00           O",
        "HETATM  903 NA    NA W   3      30.000  20.000  20.000  1.00  0.00          NA",
        "HETATM  904  C1  LIG L   4      40.000  20.000  20.000  1.00  0.00           C",
        "HETATM  905  C2  LIG L   4      41.500  20.000  20.000  1.00  0.00           C",
        "CONECT  904  905",
    ]
    found = fixed([*ATOMS, "TER", *others])
    assert found.notes == ("removed water (2 molecules)", "removed 1 NA, 1 LIG")
    assert names(found) == names(parse_pdb("\n".join([*ATOMS, ""]), "it"))


def test_a_molecule_that_is_no_peptide_keeps_itself_and_loses_its_water():
    ethane = [line for line in ATOMS if line[17:20] == "ACE"]
    water = "HETATM  901  O   HOH W   1      20.000  20.000  20.000  1.00  0.00           O"
    bonds = [f"CONECT{line[6:11]}{ethane[4][6:11]}" for line in ethane[1:2]]
    lines = [line.replace("ACE", "LIG").replace("ATOM  ", "HETATM") for line in ethane]
    found = fixed([*lines, "TER", water, *bonds])
    assert found.notes == ("removed water (1 molecules)",) and {name for name, _ in names(found)} == {"LIG"}


def test_an_unfinished_chain_is_ended():
    found = fixed(villin(22, 23))
    assert found.notes == ("added OXT to TRP23", "added 2 hydrogens at pH 7")


def test_a_non_standard_residue_is_replaced():
    lines = []
    for line in villin(11, 13):
        if line[17:20] == "MET":
            line = f"HETATM{line[6:17]}MSE{line[20:]}"
            line = line if line[12:16].strip() != "SD" else f"{line[:12]}SE  {line[16:76]}SE{line[78:]}"
        lines.append(line)
    found = fixed(lines)
    assert found.notes[:2] == ("replaced MSE12 by MET", "added SD to MET12")
    assert "MSE" not in {name for name, _ in names(found)}


def test_residues_missing_inside_a_chain_are_added_and_those_at_its_ends_are_not():
    sequence = ["SEQRES   1 A    6  SER ALA PHE ALA ASN LEU"]  # 15 to 20, of which 16 to 19 are there, 17 is not
    found = fixed([*sequence, *(line for line in villin(16, 19) if int(line[22:26]) != 17)])
    assert "left out SER before ALA16, which SEQRES has and the structure has not" in found.notes
    assert "left out LEU after ASN19, which SEQRES has and the structure has not" in found.notes
    assert "added residues PHE between ALA16 and ALA18" in found.notes
    assert [r.name for r in found.topology.residues()] == ["ALA", "PHE", "ALA", "ASN"]


def test_the_ph_decides_the_protonation():
    heavy = without_hydrogens(atom_lines(capped_segment(26, 28)))  # GLN HIS LEU
    found = {ph: fixed(heavy, ph) for ph in (2.0, 7.0)}
    assert any("HIS3 as HIP" in note for note in found[2.0].notes)
    assert any("HIS3 as HIE" in note or "HIS3 as HID" in note for note in found[7.0].notes)
    assert found[2.0].topology.getNumAtoms() == found[7.0].topology.getNumAtoms() + 1
    acid = without_hydrogens(atom_lines(capped_segment(3, 5)))  # ASP GLU ASP
    assert any("ASP2 as ASH, GLU3 as GLH, ASP4 as ASH" in note for note in fixed(acid, 1.0).notes)
    assert all("as " not in note for note in fixed(acid, 7.0).notes)
    with pytest.raises(InputError, match=r"--ph 15.0 is not usable"):
        fixed(heavy, 15.0)


def test_pythons_random_numbers_go_on_as_if_nothing_had_happened():
    random.seed(5)
    fixed(without_hydrogens(ATOMS))
    after = random.random()
    random.seed(5)
    assert random.random() == after


def test_relaxing_goes_downhill_and_tells_from_where_to_where(tmp_path):
    strained = parse_pdb("\n".join([*ATOMS, ""]), "it")
    system = create_system(strained.topology, FORCE_FIELD, tmp_path, {}, "it")
    found = relax(strained, system, "it")
    before, after = (potential_energy(system, s.positions) for s in (strained, found))
    assert after < before - 5.0
    (note,) = found.notes
    assert note.startswith(f"relaxed from {before:,.0f} to {after:,.0f} kJ/mol")
    assert alpha_handedness(found.topology, found.positions) == {"ALA2": "L"}


def test_a_ring_of_residues_gets_no_ends():
    """Hydrogens and OXT of a chain's ends stay away where a bond joins the ends."""
    lines = [line for line in villin(16, 18) if line[76:78].strip() != "H" and not line[12:16].strip().startswith("H")]
    first = next(line for line in lines if line[12:16].strip() == "N" and int(line[22:26]) == 16)
    last = next(line for line in lines if line[12:16].strip() == "C" and int(line[22:26]) == 18)
    found = fixed([*lines, f"CONECT{first[6:11]}{last[6:11]}"])
    assert {"OXT", "H2", "H3"}.isdisjoint({name for _, name in names(found)})
    again = parse_pdb(pdb_text(found.topology, found.positions), "again")
    assert again.topology.getNumBonds() == found.topology.getNumBonds()


def test_without_pdbfixer_the_way_to_install_it_is_told(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("pdbfixer"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="--fix needs PDBFixer, which is not installed: pip install"):
        fixed(ATOMS)
