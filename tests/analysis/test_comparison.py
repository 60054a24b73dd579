"""Ensembles side by side, from files to the page: populations that are known agree or do not, as they should."""

from __future__ import annotations

import json
import re

import mdtraj as md
import numpy as np
import pytest

from molsampler.analysis.ensembles import check_same_molecule, load_trajectory, of_trajectory
from molsampler.analysis.reference_ensemble import save_reference
from molsampler.basis.errors import InputError
from molsampler.cli import main as cli
from molsampler.runs.compare import compare
from molsampler.store.run_directory import RunDirectory

TRUTH, PROPOSAL = [0.5, 0.3, 0.17, 0.03], [0.4, 0.3, 0.2, 0.1]
SAMPLES = 3000


@pytest.fixture(scope="module")
def folder(peptide, mixture, tmp_path_factory):
    """A reference of TRUTH, a run with samples of PROPOSAL weighted to TRUTH, and the same frames as trajectories."""
    path = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    angles, _ = mixture(rng, 4000, TRUTH)
    save_reference(
        path / "reference",
        positions=peptide.frames(angles),
        topology=peptide.topology,
        potential_energy=rng.normal(-50.0, 8.0, 4000),
        ladder=np.arange(4000) * 40 // 4000,
        temperature=310.0,
        summary={},
    )
    angles, mode = mixture(rng, SAMPLES, PROPOSAL)
    log_w = (np.log(TRUTH) - np.log(PROPOSAL))[mode] - 70.0
    frames, energy = peptide.frames(angles), rng.normal(-50.0, 8.0, SAMPLES)
    (path / "run").mkdir()
    RunDirectory(path / "run").write_samples(frames, peptide.openmm_topology, log_w, energy, log_w)
    trajectory = md.Trajectory(frames.astype(np.float32), peptide.topology)
    trajectory.save_dcd(str(path / "raw.dcd"))
    trajectory.save_xtc(str(path / "raw.xtc"))
    trajectory.save_pdb(str(path / "raw.pdb"))
    np.savez(path / "log_weights.npz", log_weights=log_w)
    np.save(path / "weights.npy", np.exp(log_w + 70.0))
    np.savetxt(path / "short.txt", np.ones(7))
    np.savetxt(path / "negative.txt", -np.ones(SAMPLES))
    return path


def silent(text: str) -> None:
    pass


def furthest(found: dict, who: str) -> float:
    z = [s[who]["z"] for r in found["populations"].values() for s in r.values() if s[who]["z"] is not None]
    return max(map(abs, z))


def test_what_agrees_agrees_and_what_differs_is_named(folder, tmp_path, capsys):
    """Unweighted samples of PROPOSAL have 10 % where there are 3: more than ten standard errors. Weighted, in a run or
    in a file, they are within four (over eight populations rarer than 1 in 2,000; the seed is fixed)."""
    page = tmp_path / "page.html"
    paths = [str(folder / name) for name in ("reference", "run", "raw.dcd", "raw.xtc")]
    words = ["compare", *paths, "--weights", f"{paths[3]}={folder / 'log_weights.npz'}", "--out", str(page)]
    assert cli.main(words) == 0
    found = json.loads(page.with_suffix(".json").read_text())
    assert [m["kind"] for m in found["members"]] == ["reference", "run", "trajectory", "trajectory"]
    assert found["temperature"] == 310.0
    assert furthest(found, "run") < 4 and furthest(found, "raw.xtc") < 4 and furthest(found, "raw.dcd") > 10
    for states in found["populations"].values():
        for entry in states.values():  # one set of frames and weights, as a run and as a file
            assert entry["run"]["value"] == pytest.approx(entry["raw.xtc"]["value"], abs=2e-3)
            assert entry["reference"]["z"] is None
    tv = next(d for d in found["divergences"] if d["of"] == "map" and d["kind"] == "tv")["members"]
    for name in ("run", "raw.xtc"):  # from one ensemble: at the floor
        assert abs(tv[name]["value"] - tv[name]["floor"]) < 0.25 * tv[name]["floor"]
    assert tv["raw.dcd"]["value"] > tv["raw.dcd"]["floor"] + 4 * tv["raw.dcd"]["floor_spread"]
    said = capsys.readouterr().out
    assert "run: all" in said and re.search(r"raw.dcd: \d of \d+ populations differ", said)
    html = page.read_text()
    assert html.count("data:image/png") == 6 and "http" not in html.replace("http-equiv", "")
    assert "φ ALA2" in html and "floor" in html and 'class="n off"' in html


def test_free_energies_are_those_of_the_populations(folder, tmp_path):
    found = compare([folder / "run", folder / "raw.dcd"], tmp_path / "page.html", temperature=300.0, say=silent)
    rt = 8.31446261815324e-3 * 300.0
    for states in found.states:
        for member in states.members:
            zero = next(k for k, v in member.free_energies.items() if v.value == 0)
            for name, free in member.free_energies.items():
                ratio = member.populations[name].value / member.populations[zero].value
                assert free.value == pytest.approx(-rt * np.log(ratio))


def test_weights_of_an_array_are_taken_as_they_are(folder, tmp_path):
    trajectory, page = str(folder / "raw.pdb"), tmp_path / "page.html"
    weights = [f"{trajectory}={folder / 'weights.npy'}"]
    found = compare([folder / "run", trajectory], page, weights=weights, say=silent)
    for states in found.states:
        for name, z in states.z.items():
            assert z[1] == pytest.approx(0.0, abs=0.1), name


@pytest.mark.parametrize(
    ("paths", "options", "said"),
    [
        (["run"], {}, "1 ensemble was named"),
        (["run", "nothing.dcd"], {}, "neither a run directory, nor a stored reference, nor a file"),
        (["run", "."], {}, "holds neither a run nor a reference"),
        (["raw.pdb", "raw.dcd"], {}, "raw.dcd' holds no topology.*--top"),
        (["run", "weights.npy"], {}, "cannot be opened as a trajectory|holds no topology"),
        (["run", "raw.dcd"], {"weights": ["raw.dcd=short.txt"]}, r"short.txt' holds 7 weights and '.*raw.dcd' 3,000"),
        (["run", "raw.dcd"], {"weights": ["raw.dcd=negative.txt"]}, "negative weights.*log_weights"),
        (["run", "raw.dcd"], {"weights": ["other.dcd=short.txt"]}, "names 'other.dcd', which is not among"),
        (["run", "raw.dcd"], {"weights": ["run=short.txt"]}, "is a folder, whose weights are known"),
        (["run", "raw.dcd"], {"weights": ["short.txt"]}, "TRAJECTORY=FILE"),
        (["run", "raw.dcd"], {"temperature": -3.0}, "--temperature -3"),
        (["run", "raw.dcd"], {"top": "none.pdb"}, "no file 'none.pdb'"),
        (["run", "raw.dcd"], {"page": "page.pdf"}, "ends in .html"),
        (["run", "raw.dcd"], {"page": "nowhere/page.html"}, "'nowhere' is no folder that can be written to"),
        (["run", "raw.dcd"], {"weights": ["./raw.dcd=short.txt"]}, "short.txt' holds 7 weights"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(folder, tmp_path, monkeypatch, paths, options, said):
    monkeypatch.chdir(folder)
    options = {"page": tmp_path / "page.html", **options}
    with pytest.raises(InputError, match=said) as refused:
        compare(paths, say=silent, **options)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_molecules_that_the_box_has_cut_are_made_whole(peptide, mixture, tmp_path):
    """Frames wrapped atom by atom into a box: their torsions are those of the molecules."""
    angles, _ = mixture(np.random.default_rng(3), 50, TRUTH)
    whole = md.Trajectory(peptide.frames(angles).astype(np.float32), peptide.topology)
    box = np.full((50, 3), 3.0, dtype=np.float32)
    cut = md.Trajectory(
        np.mod(whole.xyz, 3.0), peptide.topology, unitcell_lengths=box, unitcell_angles=np.full((50, 3), 90.0)
    )
    assert np.abs(md.compute_phi(cut, periodic=False)[1] - md.compute_phi(whole, periodic=False)[1]).max() > 0.1
    cut.save_xtc(str(tmp_path / "cut.xtc"))
    loaded = load_trajectory(tmp_path / "cut.xtc", peptide.topology)
    apart = md.compute_phi(loaded, periodic=False)[1] - md.compute_phi(whole, periodic=False)[1]
    assert np.abs(np.angle(np.exp(1j * apart))).max() < 0.05  # xtc keeps thousandths of a nanometre


def test_a_page_is_not_replaced_unasked(folder, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        compare([folder / "run", folder / "reference"], page, say=silent)
    assert page.read_text() == "mine"


def test_atoms_that_do_not_match_are_named(peptide, mixture):
    """Another number, another element, and two atoms of one element exchanged, which the bonds show."""
    angles, _ = mixture(np.random.default_rng(0), 200, TRUTH)
    whole = md.Trajectory(peptide.frames(angles), peptide.topology)
    first = of_trajectory("first", whole)

    def refused(order: list[int]) -> str:
        with pytest.raises(InputError) as error:
            check_same_molecule([first, of_trajectory("other", whole.atom_slice(order))])
        return str(error.value)

    n = peptide.topology.n_atoms
    carbons = [a.index for a in peptide.topology.atoms if a.element.symbol == "C"]
    hydrogen = next(a.index for a in peptide.topology.atoms if a.element.symbol == "H")

    def exchanged(i: int, j: int) -> md.Trajectory:
        topology = md.Topology()
        chain = topology.add_chain()
        residue = topology.add_residue("UNK", chain)
        order = [j if k == i else i if k == j else k for k in range(n)]
        old = list(peptide.topology.atoms)
        atoms = [topology.add_atom(old[k].name, old[k].element, residue) for k in order]
        place = {k: p for p, k in enumerate(order)}
        for a, b in peptide.topology.bonds:
            topology.add_bond(atoms[place[a.index]], atoms[place[b.index]])
        return md.Trajectory(whole.xyz[:, order], topology)

    assert f"'first' has {n} atoms and 'other' {n - 1}" in refused(list(range(n - 1)))
    for pair, said in (((carbons[0], hydrogen), "in another order"), ((carbons[0], carbons[-1]), "are bonded in")):
        with pytest.raises(InputError, match=said):
            check_same_molecule([first, of_trajectory("other", exchanged(*pair))])
    assert check_same_molecule([first, of_trajectory("again", whole)]) == []
