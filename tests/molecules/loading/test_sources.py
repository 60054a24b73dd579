"""The four sources of a system.toml, each with what can be wrong with it, through `load_molecule`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from molsampler.basis.errors import InputError
from molsampler.molecules.dynamics.minimum import potential_energy
from molsampler.molecules.loading.force_field import _caps_joined, create_system, force_field_files
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.pdb import parse_pdb, read_pdb
from tests.molecules.structures import AMBER, DIPEPTIDE, FORCE_FIELD, capped_segment, dipeptide_atoms, written

ATOMS = dipeptide_atoms()
PRMTOP, INPCRD = "alanine-dipeptide.prmtop", "alanine-dipeptide.crd"


@pytest.fixture
def load(tmp_path):
    """Loads the folder with this text in its system.toml; notes are kept in `load.notes`."""
    written(tmp_path / "input.pdb", *ATOMS)

    def load(text: str):
        (tmp_path / "system.toml").write_text(f"temperature = 300.0\n{text}")
        load.notes = []
        return load_molecule(tmp_path, load.notes.append)

    load.folder = tmp_path
    return load


def dipeptide_system(*force_field: str, **arguments) -> openmm.System:
    topology = app.PDBFile(str(DIPEPTIDE / "alanine-dipeptide.pdb")).topology
    return app.ForceField(*force_field).createSystem(topology, **arguments)


def pdb_source(*names: str) -> str:
    return f"pdb = 'input.pdb'\nforcefield = {list(names)}\n"


# a PDB file and a force field


@pytest.mark.parametrize(
    ("names", "arguments", "keywords"),
    [
        (("amber96.xml",), "", {}),
        (FORCE_FIELD, "", {}),
        (
            FORCE_FIELD,
            "soluteDielectric = 2\nsolventDielectric = 40.0",
            {"soluteDielectric": 2.0, "solventDielectric": 40.0},
        ),
        (FORCE_FIELD, "implicitSolventKappa = 1.5", {"implicitSolventKappa": 1.5 / unit.nanometer}),
        (FORCE_FIELD, 'sasaMethod = "none"', {"sasaMethod": None}),
        (("amber99sb.xml", "amber99_obc.xml"), "", {}),
        (
            ("amber99sb.xml",),
            'nonbondedMethod = "CutoffNonPeriodic"\nnonbondedCutoff = 0.4',
            {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.4 * unit.nanometer},
        ),
    ],
)
def test_force_fields_and_their_arguments_are_those_of_openmm(names, arguments, keywords, load):
    mol = load(pdb_source(*names) + (f"[arguments]\n{arguments}\n" if arguments else ""))
    expected = dipeptide_system(*names, **keywords)
    x = mol.positions
    assert potential_energy(mol.system, x) == pytest.approx(potential_energy(expected, x), abs=1e-9)
    plain = dipeptide_system(*names)
    assert not keywords or abs(potential_energy(mol.system, x) - potential_energy(plain, x)) > 1e-3


def test_hydrogen_mass_moves_mass_and_keeps_the_sum(load):
    light, heavy = load(pdb_source(*FORCE_FIELD)), load(pdb_source(*FORCE_FIELD) + "[arguments]\nhydrogenMass = 3.0\n")
    hydrogens = light.atomic_numbers == 1
    np.testing.assert_allclose(heavy.masses[hydrogens], 3.0, atol=1e-6)
    assert heavy.masses.sum() == pytest.approx(light.masses.sum())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('constraints = "HBonds"', "constraints = 'HBonds' is not possible: every bond length is sampled"),
        ("hydrogenmass = 3.0", "unknown argument 'hydrogenmass'; known are .*hydrogenMass"),
        ("hydrogenMass = -3.0", "hydrogenMass = -3.0 should be a positive number"),
        ("soluteDielectric = 0", "soluteDielectric = 0 should be a positive"),
        ("soluteDielectric = nan", "soluteDielectric = nan should be"),
        ('nonbondedMethod = "PME"', "nonbondedMethod = 'PME' is not one of NoCutoff, CutoffNonPeriodic"),
        ('implicitSolvent = "OBC2"', "unknown argument 'implicitSolvent'"),
        ("hydrogenMass = 12.0", "ACE1-CH3 has a mass of -"),
        ("residueTemplates = 3", "residueTemplates = 3 should be a table"),
        ('residueTemplates = { ALA9 = "ALA" }', "no residue ALA9 to take a template for; it has ACE1, ALA2, NME3"),
        ('residueTemplates = { ALA2 = "XXX" }', "no template 'XXX'"),
        ('residueTemplates = { ALA2 = "GLY" }', "template GLY does not match the residue"),
    ],
)
def test_arguments_that_do_not_go(arguments, words, load):
    with pytest.raises(InputError, match=words):
        load(pdb_source(*FORCE_FIELD) + f"[arguments]\n{arguments}\n")


def test_arguments_of_a_solvent_need_one(load):
    with pytest.raises(InputError, match="'soluteDielectric' was specified .* never used.*need an implicit solvent"):
        load(pdb_source("amber96.xml") + "[arguments]\nsoluteDielectric = 2.0\n")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["amber15-all.xml"], "no force field 'amber15-all.xml'.*amber14-all.xml.*implicit/obc2.xml"),
        (["amber14-all.xml", "implicit/obc3.xml"], "no force field 'implicit/obc3.xml'.*implicit/obc2.xml"),
        (["amber14-all.xml", "amber99_obc.xml"], "do not go together: GBSAOBCForce: No parameters.*implicit/obc2.xml"),
        (["amber14-all.xml", "charmm36.xml"], "do not go together: Residue template ALA .* already exists"),
        (["amber14-all.xml", "implicit/obc2.xml", "implicit/gbn.xml"], "has 2 implicit solvents"),
        (["implicit/obc2.xml"], "No template found for residue 0 .ACE."),
        (["broken.xml"], "force field 'broken.xml' cannot be read"),
    ],
)
def test_force_fields_that_do_not_go(names, words, load):
    (load.folder / "broken.xml").write_text("<ForceField><Residues></ForceField>")
    with pytest.raises(InputError, match=words) as caught:
        load(pdb_source(*names))
    assert "\n" not in str(caught.value) and "http" not in str(caught.value)


def test_a_force_field_file_in_the_folder_stands_before_openmms(load):
    own = Path(app.__file__).parent / "data" / "amber96.xml"
    shutil.copy(own, load.folder / "amber14-all.xml")
    assert potential_energy(load(pdb_source("amber14-all.xml")).system, load(pdb_source("amber96.xml")).positions) == (
        pytest.approx(
            potential_energy(load(pdb_source("amber96.xml")).system, load(pdb_source("amber96.xml")).positions)
        )
    )


def test_the_list_of_force_fields_holds_what_openmm_has():
    files = force_field_files()
    assert {"amber14-all.xml", "charmm36.xml", "implicit/obc2.xml", "amber14/protein.ff14SB.xml"} <= set(files)
    assert "residues.xml" not in files and "hydrogens.xml" not in files


def test_missing_atoms_quote_openmm_and_name_the_remedy(load):
    for left_out, words in (("HB1", "missing 1 H atom"), ("CB", "No template found for residue 1 .ALA.")):
        written(load.folder / "input.pdb", *[line for line in ATOMS if line[12:16].strip() != left_out])
        if left_out == "CB":
            hydrogens = ("CB", "HB1", "HB2", "HB3")
            written(load.folder / "input.pdb", *[line for line in ATOMS if line[12:16].strip() not in hydrogens])
        with pytest.raises(InputError, match=f"{words}.*PDBFixer: molsampler new ... --fix"):
            load(pdb_source(*FORCE_FIELD))


def test_caps_are_joined_without_moving_an_atom():
    topology = parse_pdb(capped_segment(11, 12), "it").topology
    joined = _caps_joined(topology)
    assert [(r.name, len(list(r.atoms()))) for r in joined.residues()] == [("GLY", 6 + 7), ("MET", 17 + 6)]
    assert [a.name for a in joined.atoms()] == [a.name for a in topology.atoms()]
    pairs = [{frozenset((a.index, b.index)) for a, b in t.bonds()} for t in (joined, topology)]
    assert pairs[0] == pairs[1]


@pytest.mark.slow
def test_charmm_joins_caps_to_the_residue_beside_them(load):
    """ACE-GLY-MET-NME: names and order of the atoms stay; the energy is that of the topology joined by hand."""
    (load.folder / "input.pdb").write_text(capped_segment(11, 12))
    mol = load(pdb_source("charmm36.xml"))
    assert [r.name for r in mol.topology.residues()] == ["ACE", "GLY", "MET", "NME"]
    assert mol.system.getNumParticles() == mol.topology.getNumAtoms() == len(mol.positions)
    assert any(isinstance(force, openmm.CMAPTorsionForce) for force in mol.system.getForces())
    by_hand, copies = app.Topology(), {}
    chain = by_hand.addChain()
    gly, met = (by_hand.addResidue(name, chain) for name in ("GLY", "MET"))
    for atom in mol.topology.atoms():
        copies[atom] = by_hand.addAtom(atom.name, atom.element, gly if atom.residue.name in ("ACE", "GLY") else met)
    for a, b in mol.topology.bonds():
        by_hand.addBond(copies[a], copies[b])
    expected = app.ForceField("charmm36.xml").createSystem(by_hand)
    x = mol.positions
    assert potential_energy(mol.system, x) == pytest.approx(potential_energy(expected, x), abs=1e-9)


@pytest.mark.slow
def test_templates_decide_where_several_match(load):
    with pytest.raises(InputError, match=r"matching templates found .* ALAD, AANM. .*--templates ALA2=ALAD"):
        load(pdb_source("charmm36.xml"))
    protein, general = (
        load(pdb_source("charmm36.xml") + f'[arguments]\nresidueTemplates = {{ ALA2 = "{name}" }}\n')
        for name in ("ALAD", "AANM")
    )
    energies = [potential_energy(mol.system, mol.positions) for mol in (protein, general)]
    assert abs(energies[0] - energies[1]) > 0.05


def test_create_system_leaves_its_arguments_to_the_caller(tmp_path):
    structure = read_pdb(written(tmp_path / "a.pdb", *ATOMS))
    arguments = {"residueTemplates": {"ALA2": "ALA"}}
    for _ in range(2):
        create_system(structure.topology, FORCE_FIELD, tmp_path, arguments, "it")
        assert arguments == {"residueTemplates": {"ALA2": "ALA"}}


# prmtop and inpcrd


@pytest.fixture
def amber(load):
    for name in (PRMTOP, INPCRD):
        shutil.copy(DIPEPTIDE / name, load.folder / name)
    return load


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ("", {}),
        ('implicitSolvent = "OBC2"', {"implicitSolvent": app.OBC2}),
        ('implicitSolvent = "GBn2"\nsoluteDielectric = 2.0', {"implicitSolvent": app.GBn2, "soluteDielectric": 2.0}),
        (
            'implicitSolvent = "OBC1"\nimplicitSolventSaltConc = 0.5',
            {
                "implicitSolvent": app.OBC1,
                "implicitSolventSaltConc": 0.5 * unit.moles / unit.liter,
                "temperature": 300.0 * unit.kelvin,
            },
        ),
    ],
)
def test_amber_files_and_their_arguments_are_those_of_openmm(arguments, keywords, amber):
    mol = amber(f'prmtop = "{PRMTOP}"\ninpcrd = "{INPCRD}"\n' + (f"[arguments]\n{arguments}\n" if arguments else ""))
    expected = app.AmberPrmtopFile(str(DIPEPTIDE / PRMTOP)).createSystem(**keywords)
    x = app.AmberInpcrdFile(str(DIPEPTIDE / INPCRD)).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    np.testing.assert_allclose(mol.positions, x, atol=1e-12)
    assert potential_energy(mol.system, x) == pytest.approx(potential_energy(expected, x), abs=1e-9)


def test_amber_files_that_do_not_go(amber):
    both = 'prmtop = "{}"\ninpcrd = "{}"\n'
    with pytest.raises(InputError, match="alanine-dipeptide.crd cannot be read as an Amber prmtop file"):
        amber(both.format(INPCRD, PRMTOP))
    with pytest.raises(InputError, match="alanine-dipeptide.prmtop cannot be read as an Amber inpcrd file"):
        amber(both.format(PRMTOP, PRMTOP))
    with pytest.raises(InputError, match="inpcrd = 'never.crd': there is no file"):
        amber(both.format(PRMTOP, "never.crd"))
    with pytest.raises(InputError, match="implicitSolvent = 'OBC7' is not one of none, HCT"):
        amber(both.format(PRMTOP, INPCRD) + '[arguments]\nimplicitSolvent = "OBC7"\n')
    big = AMBER / "alanine-dipeptide-explicit"
    shutil.copy(big / INPCRD, amber.folder / "big.crd")
    with pytest.raises(InputError, match="big.crd holds 2269 atoms, .*prmtop 22"):
        amber(both.format(PRMTOP, "big.crd"))
    shutil.copy(big / PRMTOP, amber.folder / "big.prmtop")
    with pytest.raises(InputError, match=r"holds water \(749 molecules\).*cpptraj"):
        amber(both.format("big.prmtop", "big.crd"))
    assert any("the periodic box is left out" in note for note in amber.notes)


# a System as XML


@pytest.fixture
def serialised(load):
    def serialised(system: openmm.System):
        (load.folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        return load('system_xml = "system.xml"\npdb = "input.pdb"\n')

    serialised.load = load
    return serialised


def test_a_system_as_xml_is_that_system(serialised):
    system = dipeptide_system(*FORCE_FIELD)
    mol = serialised(system)
    assert potential_energy(mol.system, mol.positions) == potential_energy(system, mol.positions)
    assert len(mol.bonds) == 21 and mol.atom_labels[8] == "ALA2-CA"


def test_bonds_come_from_the_system_where_the_pdb_file_has_none(serialised):
    """A small organic molecule: a residue that is not standard, without CONECT records."""
    written(
        serialised.load.folder / "input.pdb", *[f"HETATM{line[6:17]}LIG A   1{line[26:]}" for line in _renumbered()]
    )
    mol = serialised(dipeptide_system(*FORCE_FIELD))
    assert mol.topology.getNumBonds() == 0 and len(mol.bonds) == 21


def _renumbered() -> list[str]:
    """The atoms of the dipeptide, named by their element and number as those of one residue."""
    return [f"{line[:12]}{line[76:78].strip() + str(k):>4s}{line[16:]}" for k, line in enumerate(ATOMS)]


def test_baths_are_left_out_and_told(serialised):
    system = dipeptide_system(*FORCE_FIELD)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    system.addForce(openmm.AndersenThermostat(300.0, 1.0))
    mol = serialised(system)
    assert {type(f).__name__ for f in mol.system.getForces()}.isdisjoint({"MonteCarloBarostat", "AndersenThermostat"})
    assert sorted(note.split(": ")[1].split()[0] for note in serialised.load.notes) == [
        "AndersenThermostat",
        "MonteCarloBarostat",
    ]


def test_a_system_with_constraints_says_how_to_make_it_again(serialised):
    with pytest.raises(InputError, match="has 12 constraints.*constraints=None and rigidWater=False"):
        serialised(dipeptide_system(*FORCE_FIELD, constraints=app.HBonds))


def test_a_solvated_system_is_refused_for_its_water(serialised):
    water = app.Modeller(app.Topology(), [] * unit.nanometer)
    field = app.ForceField("amber14/tip3p.xml")
    water.addSolvent(field, boxSize=openmm.Vec3(2, 2, 2) * unit.nanometer)
    system = field.createSystem(water.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer)
    with (serialised.load.folder / "input.pdb").open("w") as handle:
        app.PDBFile.writeFile(water.topology, water.positions, handle)
    with pytest.raises(InputError, match=r"holds water \(\d+ molecules\)"):
        serialised(system)


def test_a_system_of_other_atoms_or_another_order_is_refused(serialised):
    system = dipeptide_system(*FORCE_FIELD)
    path = serialised.load.folder / "input.pdb"
    written(path, *ATOMS[:-1])
    with pytest.raises(InputError, match="system.xml has 22 particles, .*input.pdb 21 atoms.*same order"):
        serialised(system)
    written(
        path,
        *[line for k in (0, 8, 2, 3, 4, 5, 6, 7, 1, *range(9, 22)) for line in [f"{ATOMS[k][:12]}{ATOMS[k][12:]}"]],
    )
    with pytest.raises(
        InputError, match="are bonded .* but .* nm apart: .*different orders|there is no|residues one after"
    ):
        serialised(system)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no xml", "cannot be read as XML"),
        ("<ForceField></ForceField>", "holds a <ForceField>, not a serialised OpenMM System: name it under forcefield"),
        ("<State></State>", "holds a <State>, not a serialised OpenMM System: write one with"),
        ('<System type="System" version="99"></System>', "no System that this OpenMM"),
    ],
)
def test_xml_that_is_no_system(text, words, load):
    (load.folder / "system.xml").write_text(text)
    with pytest.raises(InputError, match=words):
        load('system_xml = "system.xml"\npdb = "input.pdb"\n')


# a test system of openmmtools


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('openmmtools = "NoSuchThing"', "no test system 'NoSuchThing'"),
        ('openmmtools = "wraps"', "no test system 'wraps'"),
        (
            'openmmtools = "AlanineDipeptideImplicit"\narguments = {foo = 1}',
            "no argument 'foo'; it takes .*constraints",
        ),
        ('openmmtools = "AlanineDipeptideImplicit"\narguments = {constraints = "some"}', "does not take .arguments."),
        ('openmmtools = "AlanineDipeptideImplicit"', 'has 12 constraints.*constraints = "none" under .arguments.'),
        (
            'openmmtools = "AlanineDipeptideExplicit"\narguments = {constraints = "none"}',
            r"holds water \(749 molecules\).*choose a test system",
        ),
        ('openmmtools = "LennardJonesCluster"', "is 27 disconnected molecules"),
        ('openmmtools = "WaterBox"', "holds water"),
        ('openmmtools = "Diatom"', "at least 3"),
    ],
)
def test_test_systems_that_do_not_go(text, words, load):
    with pytest.raises(InputError, match=words):
        load(text)
