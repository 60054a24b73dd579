"""From a folder to a molecule, and every refusal on the way."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import openmm
import pytest

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.settings import read_settings, settings_text
from molsampler.molecules.loading.system_xml import read_system_xml
from tests.molecules.energy.energy_cases import DATA, molecule

PEPTIDE = DATA / "peptide"


@pytest.fixture
def folder(tmp_path):
    """A copy of the peptide's folder, and a function that rewrites its system.toml."""
    shutil.copy(PEPTIDE / "input.pdb", tmp_path / "input.pdb")

    def write(text: str):
        (tmp_path / "system.toml").write_text(text)
        return tmp_path

    return write


def peptide_toml(**changes: str) -> str:
    keys = {"temperature": "300.0", "pdb": '"input.pdb"', "forcefield": '["amber14-all.xml", "implicit/obc2.xml"]'}
    return "".join(f"{key} = {value}\n" for key, value in (keys | changes).items() if value)


def test_alanine_dipeptide_is_the_system_of_the_published_results():
    mol = molecule("aldp")
    assert (mol.name, mol.n_atoms, mol.temperature, len(mol.bonds)) == ("aldp", 22, 300.0, 21)
    assert mol.system.getNumConstraints() == 0
    assert mol.positions.shape == (22, 3) and mol.positions.dtype == np.float64


def test_a_pdb_with_a_force_field():
    mol = molecule("peptide")
    assert (mol.name, mol.n_atoms, mol.temperature) == ("peptide", 37, 310.0)
    assert len(mol.bonds) == 37  # one more than a tree: the ring of the proline
    kinds = {type(force).__name__ for force in mol.system.getForces()}
    assert {"HarmonicBondForce", "NonbondedForce", "CustomGBForce"} <= kinds


def test_amides_outside_rings_may_be_set_free(folder):
    kept = load_molecule(folder(peptide_toml()))
    free = load_molecule(folder(peptide_toml(amides='"free"')))
    assert kept.amides == "kept" and kept.free_amides == ()
    assert free.free_amides == free.graph.isomeric_amides and len(free.free_amides) > 1
    ring = dataclasses.replace(load_molecule("cyclo_phe_pro"), amides="free")
    assert len(ring.graph.isomeric_amides) == 2 and ring.free_amides == ()


def test_a_byte_order_mark_in_front_takes_nothing_away(folder):
    """Editors on Windows write one; in a PDB file it would hide the first atom."""
    expected = load_molecule(folder(peptide_toml()))
    path = folder(peptide_toml())
    for name in ("system.toml", "input.pdb"):
        text = (path / name).read_text()
        (path / name).write_text(text, encoding="utf-8-sig")
    found = load_molecule(path)
    assert found.n_atoms == expected.n_atoms
    np.testing.assert_array_equal(found.positions, expected.positions)
    (path / "system.xml").write_text(openmm.XmlSerializer.serialize(found.system), encoding="utf-8-sig")
    assert read_system_xml(path / "system.xml").getNumParticles() == found.n_atoms


def test_name_folder_and_file_mean_the_same(folder, monkeypatch):
    path = folder(peptide_toml(name='"mine"'))
    assert load_molecule(path).name == load_molecule(path / "system.toml").name == "mine"
    shelf = path / "systems" / "inner"
    shelf.mkdir(parents=True)
    shutil.copy(PEPTIDE / "input.pdb", shelf)
    (shelf / "system.toml").write_text(peptide_toml())
    monkeypatch.chdir(path)
    assert load_molecule("inner").name == "inner"  # without a name, the folder's


SOURCE = "temperature = 300.0\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("temperature = = 3", "cannot be read as TOML"),
        (peptide_toml(temprature="3"), "unknown key 'temprature'; known are .*temperature"),
        (peptide_toml(amides='"both"'), 'amides = \'both\' has no meaning; give "kept" or "free"'),
        (peptide_toml(temperature="-5.0"), r"temperature = -5.0 must be a positive"),
        (peptide_toml(temperature="0"), "temperature = 0 must be a positive"),
        (peptide_toml(temperature="nan"), "temperature = nan must be a positive"),
        (peptide_toml(temperature="inf"), "temperature = inf must be a positive"),
        (peptide_toml(temperature="true"), "temperature = True must be a positive"),
        (peptide_toml(temperature='"300 K"'), "temperature = '300 K' must be a positive"),
        (peptide_toml(temperature=""), "temperature = None must be a positive"),
        (peptide_toml(name="3"), "name = 3 should be a str"),
        (peptide_toml(pdb='"nowhere.pdb"'), "pdb = 'nowhere.pdb': there is no file .*nowhere.pdb"),
        (peptide_toml(pdb='""'), "pdb = '' is empty"),
        (peptide_toml(pdb=""), "forcefield needs pdb beside it"),
        (peptide_toml(openmmtools='"AlanineDipeptideImplicit"'), "forcefield, openmmtools, pdb do not go together"),
        (peptide_toml(forcefield=""), r'pdb needs forcefield, a list such as .*"implicit/obc2.xml".*system_xml'),
        (peptide_toml(forcefield='"amber14-all.xml"'), "should be a list"),
        (peptide_toml(forcefield="[]"), r"forcefield = \[\] is empty"),
        (peptide_toml(forcefield="[3]"), "forcefield names 3; it is a list of file names"),
        (peptide_toml(arguments="3"), "arguments = 3 should be a dict"),
        (peptide_toml(arguments="{a = 1}"), "unknown argument 'a'; known are .*hydrogenMass"),
        (peptide_toml(system_xml='"s.xml"'), "forcefield, pdb, system_xml do not go together"),
        (SOURCE, "names no molecule: give pdb with forcefield"),
        (SOURCE + 'prmtop = "a"', "prmtop needs inpcrd beside it"),
        (SOURCE + 'inpcrd = "a"', "inpcrd needs prmtop beside it"),
        (SOURCE + 'system_xml = "a"', "system_xml needs pdb beside it"),
        (SOURCE + 'prmtop = "a"\npdb = "b"', "pdb, prmtop do not go together: give one source"),
        (SOURCE + 'system_xml = "a"\npdb = "b"\narguments = {c = 1}', "have no use for a System that is made already"),
    ],
)
def test_bad_input_gets_one_clear_sentence(folder, text, words):
    with pytest.raises(InputError, match=words) as caught:
        load_molecule(folder(text))
    assert "\n" not in str(caught.value)


def test_what_is_written_is_what_is_read(tmp_path):
    values = {
        "name": 'J\u00f6rg\'s "peptide"',
        "temperature": 310.5,
        "pdb": "a b.pdb",
        "forcefield": ("x.xml", "y/z.xml"),
    }
    arguments = {"residueTemplates": {"ALA2": "ALAD"}, "hydrogenMass": 3.0, "sasaMethod": "none"}
    text = settings_text(values, {"pdb": "a comment with # and = in it"}, arguments, "two\nlines")
    (tmp_path / "system.toml").write_text(text, encoding="utf-8")
    found = read_settings(tmp_path / "system.toml")
    assert {key: getattr(found, key) for key in values} == values
    assert found.arguments == arguments and found.source == ("pdb", "forcefield") and found.folder == tmp_path


def test_choices_made_while_reading_are_told(folder):
    path = folder(peptide_toml())
    text = (path / "input.pdb").read_text()
    atoms = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM", "TER"))]
    (path / "input.pdb").write_text("\n".join(["MODEL 1", *atoms, "ENDMDL", "MODEL 2", *atoms, "ENDMDL"]))
    told = []
    mol = load_molecule(path, told.append)
    assert told == [f"{path / 'input.pdb'}: 2 models: the first one is taken"]
    np.testing.assert_array_equal(mol.positions, molecule("peptide").positions)


def test_a_molecule_that_is_not_there_names_what_is():
    with pytest.raises(InputError, match=r"molecule 'nothing'.*aldp"):
        load_molecule("nothing")


def test_loading_says_nothing_that_is_not_meant_for_the_user():
    """The notices of openmmtools' dependencies (JAX, pymbar) stay away from stdout and stderr."""
    code = "from molsampler.molecules.loading.load import load_molecule; load_molecule('aldp')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
