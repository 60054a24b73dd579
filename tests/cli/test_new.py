"""`molsampler new`: a folder that loads, or a sentence and nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from molsampler.basis.errors import InputError
from molsampler.cli import main as cli
from molsampler.molecules.dynamics.minimum import potential_energy
from molsampler.molecules.loading import new_system
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.new_system import Request, make_system
from tests.molecules.structures import DIPEPTIDE, FORCE_FIELD, dipeptide_atoms, without_hydrogens, written

ATOMS = dipeptide_atoms()
PDB = ("--pdb", "a.pdb", "--forcefield", *FORCE_FIELD)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory but for a PDB file."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.pdb", *ATOMS)
    return tmp_path


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def made(capsys, *flags: str) -> str:
    """What `molsampler new mine` prints where it does its work."""
    assert cli.main(["new", "mine", *flags]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def refused(capsys, *flags: str, name: str = "mine") -> str:
    """The one line where it does not; then the directory is as it was."""
    before = listing(Path())
    assert cli.main(["new", name, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert listing(Path()) == before
    return line


def test_a_pdb_file_with_a_force_field(capsys):
    printed = made(capsys, *PDB)
    assert listing(Path("systems")) == ["mine", "mine/input.pdb", "mine/system.toml"]
    mol = load_molecule("mine")
    system = app.ForceField(*FORCE_FIELD).createSystem(mol.topology)
    assert potential_energy(mol.system, mol.positions) == pytest.approx(
        potential_energy(system, mol.positions), abs=1e-9
    )
    assert (mol.name, mol.temperature, mol.n_atoms) == ("mine", 300.0, 22)
    for words in ("22 atoms, 21 bonds, charge +0 e, 300 K, implicit solvent", "ACE ALA NME", "ALA2-CA (L)", "2 trans"):
        assert words in printed
    assert "input.pdb, system.toml; next: molsampler check mine" in printed and "5 soft torsions" in printed


def test_an_mmcif_file_gives_what_the_pdb_file_gives(capsys):
    read = app.PDBFile("a.pdb")
    app.PDBxFile.writeFile(read.topology, read.positions, "a.cif", keepIds=True)
    made(capsys, *PDB)
    expected = load_molecule("mine")
    made(capsys, "--pdb", "a.cif", "--forcefield", *FORCE_FIELD, "--overwrite")
    found = load_molecule("mine")
    assert [str(a) for a in found.topology.atoms()] == [str(a) for a in expected.topology.atoms()]
    assert found.bonds == expected.bonds
    np.testing.assert_array_equal(found.positions, expected.positions)


def test_an_mmcif_file_is_mended(capsys):
    """Hydrogens are added as they are to the PDB file; sentences name the user's file."""
    written(Path("b.pdb"), *without_hydrogens(ATOMS))
    read = app.PDBFile("b.pdb")
    app.PDBxFile.writeFile(read.topology, read.positions, "b.cif", keepIds=True)
    line = refused(capsys, "--pdb", "b.cif", "--forcefield", *FORCE_FIELD)
    assert "b.cif does not fit amber14-all.xml" in line
    printed = made(capsys, "--pdb", "b.cif", "--forcefield", *FORCE_FIELD, "--fix")
    assert "b.cif: added 12 hydrogens at pH 7" in printed and load_molecule("mine").n_atoms == 22


def test_every_choice_is_printed_and_the_copy_is_clean(capsys):
    box = "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1"
    other = [f"{line[:21]}B{line[22:30]}{float(line[30:38]) + 30:8.3f}{line[38:]}" for line in ATOMS]
    model = [*ATOMS, "TER", *other, "TER"]
    Path("a.pdb").write_bytes("\r\n".join([box, "MODEL        1", *model, "ENDMDL", "MODEL        2", *model]).encode())
    printed = made(capsys, *PDB, "--chains", "A")
    for words in ("a.pdb: 2 models", "a.pdb: chains 'B' are left out", "a.pdb: the box (30 x 30 x 30 A) is left out"):
        assert words in printed
    text = Path("systems/mine/input.pdb").read_text()
    assert text.splitlines() == [*[line.rstrip() for line in ATOMS], "TER", "END"]
    told = []
    load_molecule("mine", told.append)
    assert told == []


def test_prmtop_and_inpcrd(capsys):
    for name in ("alanine-dipeptide.prmtop", "alanine-dipeptide.crd"):
        shutil.copy(DIPEPTIDE / name, name)
    flags = ["--prmtop", "alanine-dipeptide.prmtop", "--inpcrd", "alanine-dipeptide.crd"]
    made(capsys, *flags, "--implicit-solvent", "OBC2", "--temperature", "310")
    mol = load_molecule("mine")
    expected = app.AmberPrmtopFile("alanine-dipeptide.prmtop").createSystem(implicitSolvent=app.OBC2)
    assert potential_energy(mol.system, mol.positions) == pytest.approx(
        potential_energy(expected, mol.positions), abs=1e-9
    )
    assert mol.temperature == 310.0
    assert "vacuum" in made(capsys, *flags, "--overwrite")


def test_a_system_as_xml(capsys):
    system = app.ForceField(*FORCE_FIELD).createSystem(app.PDBFile("a.pdb").topology)
    Path("s.xml").write_text(openmm.XmlSerializer.serialize(system))
    made(capsys, "--system-xml", "s.xml", "--pdb", "a.pdb")
    mol = load_molecule("mine")
    assert potential_energy(mol.system, mol.positions) == potential_energy(system, mol.positions)


def test_a_test_system_without_its_constraints(capsys):
    made(capsys, "--openmmtools", "AlanineDipeptideImplicit")
    assert load_molecule("mine").system.getNumConstraints() == 0
    assert 'constraints = "none"' in Path("systems/mine/system.toml").read_text()
    made(capsys, "--openmmtools", "TolueneVacuum", "--overwrite")
    assert load_molecule("mine").n_atoms == 15


def test_a_force_field_of_ones_own_is_copied(capsys):
    shutil.copy(Path(app.__file__).parent / "data" / "amber96.xml", "own.xml")
    made(capsys, "--pdb", "a.pdb", "--forcefield", "own.xml")
    assert "own.xml" in listing(Path("systems/mine"))
    made(capsys, "--pdb", "a.pdb", "--forcefield", str(Path("own.xml").resolve()), "--overwrite")
    Path("own.xml").unlink()
    assert "own.xml" in listing(Path("systems/mine")) and load_molecule("mine").n_atoms == 22


def test_force_fields_of_one_file_name_are_both_kept(capsys):
    """From two folders, and one beside OpenMM's own of that name."""
    data = Path(app.__file__).parent / "data"
    for folder, name in (("one", "amber96.xml"), ("two", "amber96_obc.xml")):
        Path(folder).mkdir()
        shutil.copy(data / name, f"{folder}/ff.xml")
    printed = made(capsys, "--pdb", "a.pdb", "--forcefield", "one/ff.xml", "two/ff.xml")
    assert "two/ff.xml: kept as ff-2.xml, since ff.xml is another file" in printed
    assert {"ff.xml", "ff-2.xml"} <= set(listing(Path("systems/mine")))
    system = load_molecule("mine").system
    assert "GBSAOBCForce" in {force.getName() for force in system.getForces()}
    shutil.copy(data / "amber96_obc.xml", "amber96.xml")
    made(capsys, "--pdb", "a.pdb", "--forcefield", "amber96.xml", "./amber96.xml", "--overwrite")
    assert "amber96-2.xml" in listing(Path("systems/mine")) and "amber96.xml" not in listing(Path("systems/mine"))


def test_openmms_force_field_stands_before_a_file_of_that_name(capsys):
    Path("amber96.xml").write_text("<ForceField></ForceField>")
    printed = made(capsys, "--pdb", "a.pdb", "--forcefield", "amber96.xml")
    assert "amber96.xml: OpenMM's file is taken" in printed and "./amber96.xml" in printed


def test_fix_tells_what_it_changes_and_the_result_is_relaxed(capsys):
    pytest.importorskip("pdbfixer", reason="PDBFixer is an extra")
    written(Path("a.pdb"), *without_hydrogens(ATOMS))
    assert "--fix" in refused(capsys, *PDB)
    printed = made(capsys, *PDB, "--fix")
    assert "a.pdb: added 12 hydrogens at pH 7" in printed and "a.pdb: relaxed from" in printed
    assert load_molecule("mine").n_atoms == 22
    written(Path("a.pdb"), *ATOMS)
    assert "--fix found nothing to change" in made(capsys, *PDB, "--fix", "--overwrite")


def test_a_residue_that_comes_out_mirrored_is_refused(capsys, monkeypatch):
    pytest.importorskip("pdbfixer", reason="PDBFixer is an extra")
    written(Path("a.pdb"), *without_hydrogens(ATOMS))
    monkeypatch.setattr(new_system, "relax", lambda structure, system, where: mirrored(structure))
    assert "as D amino acids came out of PDBFixer ALA2" in refused(capsys, *PDB, "--fix")


def mirrored(structure):
    return type(structure)(structure.topology, structure.positions * [1, 1, -1], structure.text)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../up", "a b", "x" * 65, "name.", "n\u00e4me", "a\nb", "/abs"]
)
def test_bad_names_are_refused(name):
    with pytest.raises(InputError, match="cannot be the name of a system"):
        make_system(name, Request(openmmtools="TolueneVacuum"))
    assert listing(Path()) == ["a.pdb"]


@pytest.mark.parametrize(
    ("flags", "quoted"),
    [
        ([], "given is none"),
        (["--pdb", "a.pdb"], "given is --pdb"),
        (["--forcefield", "amber96.xml"], "given is --forcefield"),
        (["--prmtop", "p"], "given is --prmtop"),
        ([*PDB, "--prmtop", "p"], "given is --forcefield, --pdb, --prmtop"),
        ([*PDB, "--openmmtools", "TolueneVacuum"], "given is --forcefield, --openmmtools, --pdb"),
        ([*PDB, "--temperature", "-3"], "--temperature = -3.0 must be a positive number of kelvin"),
        ([*PDB, "--temperature", "nan"], "--temperature = nan must be"),
        ([*PDB, "--implicit-solvent", "OBC2"], "--implicit-solvent goes with --prmtop"),
        ([*PDB, "--ph", "5.5"], "--ph 5.5 goes with --fix"),
        (["--prmtop", "p", "--inpcrd", "i", "--implicit-solvent", "OBC7"], "OBC7 is not one of none, HCT, OBC1"),
        (["--prmtop", "p", "--inpcrd", "i"], "p cannot be read (No such file or directory)"),
        (["--system-xml", "s.xml", "--pdb", "a.pdb", "--fix"], "--fix goes with --pdb and --forcefield"),
        (["--system-xml", "s.xml", "--pdb", "a.pdb"], "s.xml cannot be read"),
        (["--openmmtools", "NoSuchThing"], "no test system 'NoSuchThing'"),
        (["--openmmtools", "TolueneVacuum", "--chains", "A"], "--chains goes with --pdb"),
        (["--openmmtools", "TolueneVacuum", "--templates", "A=B"], "--templates goes with --forcefield"),
        ([*PDB, "--templates", "ALAD"], "--templates ALAD should name a residue and its template"),
        ([*PDB, "--chains", "Q"], "a.pdb has no chain 'Q'"),
        (["--pdb", "never.pdb", "--forcefield", "amber96.xml"], "never.pdb cannot be read"),
        (["--pdb", "a.pdb", "--forcefield", "amber97.xml"], "no force field 'amber97.xml'"),
        ([*PDB, "--fix", "--ph", "15"], "--ph 15.0 is not usable"),
    ],
)
def test_bad_flags_leave_nothing_behind(flags, quoted, capsys):
    assert quoted in refused(capsys, *flags)


def test_messages_speak_of_the_users_files(capsys):
    """Of a.pdb, not of the copy in the folder that is being made."""
    cut = [line for line in ATOMS if line[12:16].strip() != "HB1"]
    written(Path("a.pdb"), *cut)
    line = refused(capsys, *PDB)
    assert "a.pdb does not fit amber14-all.xml" in line and "input.pdb" not in line and "systems" not in line


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(capsys):
    made(capsys, *PDB)
    before = Path("systems/mine/system.toml").read_text()
    assert "systems/mine is there already" in refused(capsys, *PDB, "--temperature", "400")
    assert "amber97.xml" in refused(capsys, "--pdb", "a.pdb", "--forcefield", "amber97.xml", "--overwrite")
    assert Path("systems/mine/system.toml").read_text() == before
    made(capsys, *PDB, "--temperature", "400", "--overwrite")
    assert load_molecule("mine").temperature == 400.0
    assert listing(Path("systems")) == ["mine", "mine/input.pdb", "mine/system.toml"]


def test_a_stored_reference_is_not_thrown_away(capsys):
    """It took longer to make than anything else in the folder."""
    made(capsys, *PDB)
    kept = Path("systems/mine/reference/reference.dcd")
    kept.parent.mkdir()
    kept.write_text("frames")
    assert "systems/mine/reference holds the reference" in refused(capsys, *PDB, "--temperature", "400", "--overwrite")
    assert kept.read_text() == "frames" and load_molecule("mine").temperature == 300.0


def test_a_folder_that_is_no_system_is_never_replaced(capsys):
    Path("systems/mine").mkdir(parents=True)
    Path("systems/mine/thesis.txt").write_text("years of work")
    assert "holds no system.toml" in refused(capsys, *PDB, "--overwrite")


def test_a_place_that_cannot_be_written_to(capsys):
    Path("systems").write_text("a file")
    assert "systems cannot hold a new system" in refused(capsys, *PDB)


def test_an_interruption_leaves_nothing_behind(monkeypatch):
    def interrupted(*args):
        assert any(name.startswith(".mine") for name in os.listdir("systems"))
        raise KeyboardInterrupt

    monkeypatch.setattr(new_system, "load_molecule", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_system("mine", Request(pdb=Path("a.pdb"), forcefield=FORCE_FIELD))
    assert listing(Path()) == ["a.pdb"]


def test_positions_survive_the_way_through_the_folder(capsys):
    made(capsys, *PDB)
    expected = np.array(app.PDBFile("a.pdb").positions.value_in_unit(unit.nanometer))
    np.testing.assert_array_equal(load_molecule("mine").positions, expected)
