"""From a folder to a molecule, and every refusal on the way."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import openmm
import pytest

from molsampler.errors import InputError
from molsampler.molecules.system import _check, load_molecule
from tests.molecules.energy_cases import DATA, molecule

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


def test_name_folder_and_file_mean_the_same(folder, monkeypatch):
    path = folder(peptide_toml(name='"mine"'))
    assert load_molecule(path).name == load_molecule(path / "system.toml").name == "mine"
    shelf = path / "systems" / "inner"
    shelf.mkdir(parents=True)
    shutil.copy(PEPTIDE / "input.pdb", shelf)
    (shelf / "system.toml").write_text(peptide_toml())
    monkeypatch.chdir(path)
    assert load_molecule("inner").name == "inner"  # without a name, the folder's


@pytest.mark.parametrize(
    "text, words",
    [
        ("temperature = = 3", "cannot be read as TOML"),
        (peptide_toml(temprature="3"), "unknown key 'temprature'"),
        (peptide_toml(temperature="-5.0"), r"temperature = -5.0 must be a positive"),
        (peptide_toml(temperature="0"), "temperature = 0 must be a positive"),
        (peptide_toml(temperature="nan"), "temperature = nan must be a positive"),
        (peptide_toml(temperature="inf"), "temperature = inf must be a positive"),
        (peptide_toml(temperature="true"), "temperature = True must be a positive"),
        (peptide_toml(temperature=""), "temperature = None must be a positive"),
        (peptide_toml(pdb='"nowhere.pdb"'), "there is no file .*nowhere.pdb"),
        (peptide_toml(pdb=""), "either openmmtools"),
        (peptide_toml(openmmtools='"AlanineDipeptideImplicit"'), "one of the two"),
        (peptide_toml(forcefield=""), "pdb needs forcefield"),
        (peptide_toml(forcefield='"amber14-all.xml"'), "should be a list"),
        (peptide_toml(forcefield='["amber15-all.xml"]'), "force field 'amber15-all.xml' cannot be loaded"),
        (peptide_toml(forcefield="[3]"), "force field '3' cannot be loaded"),
        (peptide_toml(arguments="{a = 1}"), "arguments does not go with pdb"),
        ('temperature = 300.0\nopenmmtools = "NoSuchThing"', "no test system 'NoSuchThing'"),
        ('temperature = 300.0\nopenmmtools = "wraps"', "no test system 'wraps'"),
        (
            'temperature = 300.0\nopenmmtools = "AlanineDipeptideImplicit"\narguments = {foo = 1}',
            "no argument 'foo'; it takes .*constraints",
        ),
        (
            'temperature = 300.0\nopenmmtools = "AlanineDipeptideImplicit"\narguments = {constraints = "some"}',
            "does not take .arguments.",
        ),
        ('temperature = 300.0\nopenmmtools = "AlanineDipeptideImplicit"', "has 12 constraints"),
        (
            'temperature = 300.0\nopenmmtools = "AlanineDipeptideExplicit"\narguments = {constraints = "none"}',
            "constraints|periodic box",
        ),
        ('temperature = 300.0\nopenmmtools = "LennardJonesCluster"', "is 27 disconnected molecules"),
    ],
)
def test_bad_input_gets_one_clear_sentence(folder, text, words):
    with pytest.raises(InputError, match=words) as caught:
        load_molecule(folder(text))
    assert "\n" not in str(caught.value)


def test_a_molecule_that_is_not_there_names_what_is():
    with pytest.raises(InputError, match=r"molecule 'nothing'.*aldp"):
        load_molecule("nothing")


def test_missing_atoms_quote_openmm_and_name_a_remedy(folder):
    path = folder(peptide_toml())
    lines = (path / "input.pdb").read_text().splitlines(keepends=True)
    (path / "input.pdb").write_text("".join(line for line in lines if " HG  SER" not in line))
    with pytest.raises(InputError, match=r"No template found for residue 2 \(SER\).*PDBFixer"):
        load_molecule(path)


@pytest.mark.parametrize("text", ["", "this is no PDB file\n", "ATOM      1  CH3 ACE A   1      x\n"])
def test_a_file_that_is_no_pdb(folder, text):
    path = folder(peptide_toml())
    (path / "input.pdb").write_text(text)
    with pytest.raises(InputError, match="input.pdb"):
        load_molecule(path)


def test_a_box_is_refused(folder):
    path = folder('temperature = 300.0\nopenmmtools = "WaterBox"\n')
    with pytest.raises(InputError, match="constraints|periodic"):
        load_molecule(path)


def test_virtual_sites_are_refused():
    mol = molecule("aldp")
    system = openmm.XmlSerializer.clone(mol.system)
    system.setParticleMass(3, 0.0)
    system.setVirtualSite(3, openmm.TwoParticleAverageSite(1, 2, 0.5, 0.5))
    changed = type(mol)(mol.name, mol.topology, system, mol.positions, mol.temperature)
    with pytest.raises(InputError, match="ACE1-H3 is a virtual site"):
        _check(changed)


def test_loading_says_nothing_that_is_not_meant_for_the_user():
    """The notices of openmmtools' dependencies (JAX, pymbar) stay away from stdout and stderr."""
    code = "from molsampler.molecules.system import load_molecule; load_molecule('aldp')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
