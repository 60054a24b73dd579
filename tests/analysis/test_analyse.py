"""From run directory to pictures and report: figures against the truth, pictures, words, edge cases."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import mdtraj as md
import numpy as np
import pytest

from molsampler.analysis import steps
from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.reference_ensemble import Reference, save_reference
from molsampler.analysis.report.metric_names import find
from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.store.run_directory import PICTURES, RunDirectory
from tests.pictures import assert_picture

TRUTH = np.array([0.5, 0.3, 0.17, 0.03])
PROPOSAL = np.array([0.4, 0.3, 0.2, 0.1])


def make_reference(path: Path, peptide, mixture, frames: int) -> Reference:
    rng = np.random.default_rng(0)
    angles, _ = mixture(rng, frames, list(TRUTH))
    return save_reference(
        path,
        positions=peptide.frames(angles),
        topology=peptide.topology,
        potential_energy=rng.normal(-50.0, 8.0, frames),
        ladder=np.arange(frames) * 40 // frames,
        temperature=300.0,
        summary={"command": "molsampler reference aldp"},
    )


@pytest.fixture(scope="module")
def reference(peptide, mixture, tmp_path_factory) -> Reference:
    """1,000 frames, for tests of words and of single figures."""
    return make_reference(tmp_path_factory.mktemp("reference"), peptide, mixture, 1000)


@pytest.fixture(scope="module")
def long_reference(peptide, mixture, tmp_path_factory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("reference"), peptide, mixture, 4000)


def write_run(path: Path, peptide, mixture, samples: int) -> RunDirectory:
    """Samples of PROPOSAL with weights to TRUTH, some off the support, some with infinite energy."""
    rng = np.random.default_rng(1)
    angles, mode = mixture(rng, samples, list(PROPOSAL))
    log_w = np.log(TRUTH / PROPOSAL)[mode] - 70.0
    log_w[: samples // 40] = -np.inf
    energy = rng.normal(-50.0, 8.0, samples)
    energy[: samples // 80] = np.inf
    run = RunDirectory.claim(path)
    run.write_samples(peptide.frames(angles), peptide.openmm_topology, log_w, energy, log_w)
    for k in range(12):
        run.append_metrics_row(
            {"update": k, "seconds": 10.0 * k, "loss": 5.0 / (k + 1), "ess": k / 30, "elbo": -80.0 + k}
        )
    (run / "config.toml").write_text('seed = 7\nname = "<b>aldp</b>"\n')
    run.release()
    return run


@pytest.fixture(scope="module")
def written(peptide, mixture, tmp_path_factory) -> RunDirectory:
    return write_run(tmp_path_factory.mktemp("written") / "run", peptide, mixture, 1000)


@pytest.fixture
def run(written, tmp_path) -> RunDirectory:
    """A copy of a run of 1,000 samples."""
    return RunDirectory(shutil.copytree(written.path, tmp_path / "run"))


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """For tests of figures and words: a picture costs half a second."""
    monkeypatch.setattr(steps, "_draw", lambda *arguments: None)


@pytest.fixture(scope="module")
def subject(peptide) -> Subject:
    return Subject(
        "aldp", 300.0, peptide.positions, [peptide.pair.phi, peptide.pair.psi, peptide.methyl], command="run it"
    )


FROM_THE_JOB = {
    "log_z_learnt": (-70.1, None),
    "log_z_running": -70.0,
    "updates": 300,
    "training_seconds": 60.0,
    "seconds_setup": 4.0,
    "evaluations": 5,
    "evaluations_md": 3,
    "skipped_updates": 0,
    "smc_distinct_ancestors": 12.0,
}


@pytest.fixture(scope="module")
def whole(peptide, mixture, subject, long_reference, tmp_path_factory) -> tuple[RunDirectory, dict]:
    """A run of 4,000 samples, analysed beside a reference of as many frames with everything that a job can hand in, and
    its metrics."""
    run = write_run(tmp_path_factory.mktemp("whole") / "run", peptide, mixture, 4000)
    rng = np.random.default_rng(6)
    # noised from the reference: under N(m + s^2 / 2, s^2) in place of N(m - s^2 / 2, s^2) the ESS is exp(-s^2)
    subject = replace(
        subject,
        reference_log_weights=-70.0 + 0.18 + 0.6 * rng.normal(size=2000),
        reference_frames=rng.integers(4000, size=2000),
    )
    return run, analyse(run, subject, long_reference, FROM_THE_JOB)


def test_figures_beside_a_reference(whole) -> None:
    _, metrics = whole
    share = np.square((PROPOSAL * TRUTH / PROPOSAL).sum()) / (TRUTH**2 / PROPOSAL).sum() * 0.975
    assert abs(metrics["ess"]["value"] - share) < 4 * metrics["ess"]["stderr"] + 0.005
    assert metrics["effective_samples"]["value"] == pytest.approx(4000 * metrics["ess"]["value"])
    assert metrics["fraction_outside_support"]["value"] == pytest.approx(0.025)
    assert abs(metrics["log_z_estimate"]["value"] - (-70.0 + np.log(0.975))) < 0.1
    assert abs(metrics["eubo"]["value"] - (-69.82)) < 4.5 * metrics["eubo"]["stderr"]
    forward = metrics["ess_forward"]
    assert abs(forward["value"] - 0.975 * np.exp(-0.36)) < 4.5 * forward["stderr"]
    rt = thermal_energy(300.0)
    for k, name in enumerate(("C7eq", "C5", "alphaR", "alphaL")):
        for suffix, truth in (("", TRUTH), ("_raw", PROPOSAL)):
            found = metrics[f"population_ALA2_{name}{suffix}"]
            assert abs(found["value"] - truth[k]) < 4.5 * found["stderr"] + 0.003
            free = metrics[f"free_energy_ALA2_{name}{suffix}"]
            assert abs(free["value"] + rt * np.log(truth[k] / truth[0])) < 4.5 * free["stderr"] + 0.05
        assert metrics[f"reference_population_ALA2_{name}"]["value"] == pytest.approx(TRUTH[k], abs=0.04)
    assert metrics["log_z_learnt"] == {"value": -70.1, "stderr": None}
    for name in (
        "ramachandran_jsd",
        "ramachandran_tv_64",
        "torsion_jsd_psi_ALA2",
        "torsion_kl_mean",
        "ramachandran_w2",
    ):
        good = metrics[name]
        assert abs(good["value"] - good["floor"]) < 6 * good["floor_spread"]
    for name in ("torsion_jsd_psi_ALA2_raw", "ramachandran_w2_raw"):
        assert metrics[name]["value"] > metrics[name]["floor"] + 4 * metrics[name]["floor_spread"]
    assert metrics["energy_w1"]["value"] < 1.0 and metrics["energy_w1_raw"]["value"] is None
    assert metrics["energies_not_finite"]["value"] == 50
    assert metrics["distance_w1_mean"]["value"] < metrics["distance_w1_mean_raw"]["value"]
    assert metrics["stereocentres"]["value"] == 1 and metrics["count_inverted_raw"]["value"] == 0
    assert 0 < metrics["rmsd_nearest_minimum"]["value"] < metrics["rmsd_input"]["value"]


def test_pictures_and_report_beside_a_reference(whole) -> None:
    run, _ = whole
    for name in PICTURES:
        assert_picture(run / name)
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * len(PICTURES)
    assert not re.search(r"(src|href|srcset)=\"(?!data:)", page) and "default-src 'none'" in page
    assert "http" not in re.sub(r"(?s)http-equiv|<pre>3Dmol.*?</pre>", "", page)  # but for what its licences name
    assert "agree with the reference within three standard errors" in page
    assert "seed = 7" in page and "&lt;b&gt;" in page and "<b>aldp" not in page
    assert "run it" in page and "molsampler reference aldp" in page
    assert "The basin minima are frames of lowest energy of" in page


def test_every_figure_that_is_written_is_documented(whole) -> None:
    _, metrics = whole
    assert [name for name in metrics if find(name) is None] == []
    assert len(metrics) > 100


@pytest.mark.usefixtures("no_pictures")
def test_the_bootstrap_of_a_run_is_always_the_same(run, subject) -> None:
    assert analyse(run, subject) == analyse(run, subject)


def write_mixture(run, peptide, mixture, n: int, shares: list[float]) -> None:
    """n equally weighted samples, these shares of them in each of the four modes."""
    angles, _ = mixture(np.random.default_rng(2), n, shares)
    zeros = np.zeros(n)
    run.write_samples(peptide.frames(angles), peptide.openmm_topology, zeros, zeros - 50.0, zeros)


@pytest.mark.usefixtures("no_pictures")
def test_wrong_populations_and_missing_states_are_said(run, subject, long_reference, peptide, mixture) -> None:
    write_mixture(run, peptide, mixture, 3000, [0.8, 0.1, 0.1, 0.0])
    analyse(run, subject, long_reference)
    page = (run / "report.html").read_text()
    assert "The samples miss αL" in page
    assert "More than three standard errors from the reference: C7eq" in page
    assert 'class="verdict care"' in page and "Use this run with care." in page
    assert "The difference is real." in page and '<tr class="off">' in page


@pytest.mark.usefixtures("no_pictures")
def test_a_large_basin_that_is_missing_spoils_the_run(run, subject, reference, peptide, mixture) -> None:
    write_mixture(run, peptide, mixture, 1000, [1.0, 0.0, 0.0, 0.0])
    analyse(run, subject, reference)
    assert 'class="verdict poor"' in (run / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_what_the_samples_cannot_hold_is_in_the_verdict(run, subject, reference) -> None:
    analyse(run, subject, reference)
    assert "The ring may have other conformers." not in (run / "report.html").read_text()
    analyse(run, replace(subject, cautions=["The ring may have other conformers."]), reference)
    page = (run / "report.html").read_text()
    assert "The ring may have other conformers." in page and 'class="verdict care"' in page


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_reference(run, subject) -> None:
    metrics = analyse(run, subject)
    assert "ramachandran_jsd" not in metrics and "population_ALA2_C7eq" in metrics
    assert "no reference to compare with" in (run / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_reference_that_is_gone_leaves_no_distances(run, subject, reference) -> None:
    """Nothing of an earlier analysis is kept, in figures or words: neither its distances, nor its populations, nor
    what its caller handed in."""
    weights = {"reference_log_weights": np.full(50, -70.0), "reference_frames": np.arange(50)}
    before = analyse(run, replace(subject, **weights), reference, FROM_THE_JOB)
    after = analyse(run, subject)
    gone = before.keys() - after.keys()
    assert gone >= {"ramachandran_jsd", "energy_w1", "distance_w1_mean", "reference_frames", "eubo", "ess_forward"}
    assert gone >= FROM_THE_JOB.keys() and not [name for name in after if name.startswith("reference_")]
    assert after == run.load_metrics()
    page = (run / "report.html").read_text()
    assert "no reference to compare with" in page and "Seen from the reference" not in page and "eubo" not in page


@pytest.mark.usefixtures("no_pictures")
def test_samples_of_smc_after_those_of_the_policy_have_no_words_of_these(run, subject, peptide, mixture) -> None:
    """The tail of independent weights is judged for independent weights only; the other way round no passes remain."""
    of_policy = {"elbo", "pareto_k", "pareto_k_threshold"}
    assert analyse(run, subject).keys() >= of_policy and "Pareto" in (run / "report.html").read_text()
    frames = peptide.frames(mixture(np.random.default_rng(4), 400, list(TRUTH))[0])
    arrays = np.zeros(400), np.zeros(400), np.zeros(400)
    passes = {"group": np.repeat(np.arange(100), 4), "distinct_ancestors": np.full(100, 3)}
    run.write_samples(frames, peptide.openmm_topology, *arrays, **passes)
    assert not (run / "metrics.json").exists() and not (run / "report.html").exists()
    metrics = analyse(run, subject)
    assert not of_policy & metrics.keys() and "Pareto" not in (run / "report.html").read_text()
    assert metrics["smc_distinct_ancestors"]["value"] == 3.0 and metrics["runs"]["value"] == 100
    run.write_samples(frames, peptide.openmm_topology, *arrays)
    assert not {"runs", "smc_distinct_ancestors"} & analyse(run, subject).keys()


@pytest.mark.usefixtures("no_pictures")
def test_minima_are_what_the_minimiser_makes_of_the_lowest_frames(run, subject, reference) -> None:
    seen = []

    def minimise(structures: np.ndarray) -> np.ndarray:
        seen.append(structures.shape)
        return np.repeat(subject.input_positions[None], len(structures), 0)

    metrics = analyse(run, replace(subject, minimise=minimise), reference)
    assert seen == [(4, 22, 3)]
    assert metrics["rmsd_nearest_minimum"] == metrics["rmsd_input"]


def test_no_sample_on_the_support_is_said_and_drawn(run, subject, peptide) -> None:
    out = np.full(20, -np.inf)
    positions = np.repeat(peptide.positions[None], 20, 0)
    run.write_samples(positions, peptide.openmm_topology, out, -out, out)
    metrics = analyse(run, subject)
    assert metrics["ess"]["value"] == 0.0 and metrics["log_z_estimate"]["value"] is None
    page = (run / "report.html").read_text()
    assert "Not one of the 20 samples lies on the support" in page
    assert not (run / "energy.png").exists() and "torsions" in page


@pytest.mark.usefixtures("no_pictures")
def test_a_single_sample_is_analysed(run, subject, peptide) -> None:
    one = np.zeros(1)
    run.write_samples(peptide.positions[None], peptide.openmm_topology, one, one, one)
    metrics = analyse(run, subject)
    assert metrics["ess"] == {"value": 1.0, "stderr": None}
    page = (run / "report.html").read_text()
    assert "A single sample carries 100\u00a0% of all weight" in page and 'class="verdict poor"' in page


def test_a_molecule_without_backbone_or_soft_torsions(tmp_path) -> None:
    topology = md.Topology()
    residue = topology.add_residue("WAT", topology.add_chain())
    atoms = [topology.add_atom(n, e, residue) for n, e in (("O", md.element.oxygen), ("H1", md.element.hydrogen))]
    topology.add_bond(*atoms)
    rng = np.random.default_rng(3)
    structure = np.array([[0.0, 0, 0], [0.1, 0, 0]])
    run = RunDirectory(tmp_path)
    positions = structure + 0.01 * rng.normal(size=(300, 2, 3))
    run.write_samples(positions, topology, rng.normal(size=300), rng.normal(size=300), np.zeros(300))
    metrics = analyse(run, Subject("water", 300.0, structure))
    assert metrics["distance_pairs"]["value"] == 0 and metrics["stereocentres"]["value"] == 0
    assert not (run / "ramachandran.png").exists() and not (run / "torsions.png").exists()
    assert_picture(run / "energy.png")
    page = (run / "report.html").read_text()
    assert "no residue with both phi and psi" in page and "no soft torsion" in page


def two_residues(peptide, angles: np.ndarray) -> tuple[md.Trajectory, Subject]:
    """Alanine dipeptide twice, 2 nm apart: the first with phi and psi as in angles (n, 2, 2), the second likewise."""
    topology = peptide.topology.join(peptide.topology)
    frames = [peptide.frames(angles[:, k]) + 2.0 * k for k in (0, 1)]
    structure = np.concatenate([peptide.positions, peptide.positions + 2.0])
    return md.Trajectory(np.concatenate(frames, 1), topology), Subject("twice", 300.0, structure)


def test_every_residue_has_its_map_and_its_figures(peptide, mixture, tmp_path, monkeypatch) -> None:
    def draw_map_alone(study, name, draw, *arguments) -> None:
        if name == "ramachandran.png":
            draw(*arguments, study.run / name)

    monkeypatch.setattr(steps, "_draw", draw_map_alone)
    rng = np.random.default_rng(9)
    known, subject = two_residues(peptide, np.stack([mixture(rng, 1500, list(TRUTH))[0] for _ in range(2)], 1))
    reference = save_reference(
        tmp_path / "reference",
        positions=known.xyz,
        topology=known.topology,
        potential_energy=np.zeros(1500),
        ladder=np.arange(1500) // 50,
        temperature=300.0,
        summary={},
    )
    # the first residue as in the reference, the second without its last state
    wrong = mixture(rng, 1500, [0.5, 0.3, 0.2, 0.0])[0]
    samples, _ = two_residues(peptide, np.stack([mixture(rng, 1500, list(TRUTH))[0], wrong], 1))
    run = RunDirectory(tmp_path)
    zeros = np.zeros(1500)
    run.write_samples(samples.xyz, samples.topology, zeros, zeros, zeros)
    metrics = analyse(run, subject, reference)
    first, second = "ALA2-0", "ALA2-1"
    assert list(reference.residues) == [first, second]
    assert metrics[f"population_{second}_alphaL"]["value"] < 0.01 < metrics[f"population_{first}_alphaL"]["value"]
    for name in ("ramachandran_tv", "ramachandran_w2", "ramachandran_jsd_64"):
        parts = [metrics[f"{name}_{residue}"]["value"] for residue in (first, second)]
        assert metrics[name]["value"] == pytest.approx(np.mean(parts)) and parts[0] != parts[1]
    assert metrics[f"ramachandran_w2_{first}"]["value"] < metrics[f"ramachandran_w2_{second}"]["value"]
    for angle in ("phi", "psi"):
        assert {f"torsion_kl_{angle}_{residue}" for residue in (first, second)} <= set(metrics)
    assert [name for name in metrics if find(name) is None] == []
    assert_picture(run / "ramachandran.png")
    page = (run / "report.html").read_text()
    assert f"The samples miss αL of {second}" in page and f"<h3>{first}</h3>" in page and "mean of all" in page


@pytest.mark.usefixtures("no_pictures")
def test_runs_of_smc_have_their_own_ess(run, subject, peptide, mixture) -> None:
    rng = np.random.default_rng(4)
    angles, _ = mixture(rng, 2000, list(TRUTH))
    log_z = 0.05 * rng.normal(size=100)  # relative variance 0.0025, 20 particles a run
    group = np.repeat(np.arange(100), 20)
    run.write_samples(
        peptide.frames(angles), peptide.openmm_topology, log_z[group], np.zeros(2000), np.zeros(2000), group=group
    )
    metrics = analyse(run, subject)
    assert metrics["runs"]["value"] == 100 and "elbo" not in metrics
    assert abs(metrics["ess"]["value"] - 1 / (1 + 20 * 0.0025)) < 4 * metrics["ess"]["stderr"]


@pytest.mark.usefixtures("no_pictures")
def test_mirror_images_with_weight_are_found_out(run, subject, peptide) -> None:
    frames = np.repeat(peptide.positions[None], 300, 0)
    frames[:30] *= [1.0, 1.0, -1.0]
    zeros = np.zeros(300)
    run.write_samples(frames, peptide.openmm_topology, zeros, zeros, zeros)
    metrics = analyse(run, subject)
    assert metrics["count_inverted_raw"]["value"] == 30 and metrics["fraction_inverted"]["value"] == pytest.approx(0.1)
    assert "mirror images" in (run / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_tail_of_heavy_weights_is_told(run, subject, peptide) -> None:
    frames = np.repeat(peptide.positions[None], 4000, 0)
    log_w = np.log(np.random.default_rng(7).pareto(0.9, 4000))
    run.write_samples(frames, peptide.openmm_topology, log_w, np.zeros(4000), log_w)
    metrics = analyse(run, subject)
    assert metrics["pareto_k"]["value"] > metrics["pareto_k_threshold"]["value"]
    page = (run / "report.html").read_text()
    assert "may change the averages" in page and "This run can be trusted" not in page


@pytest.mark.usefixtures("no_pictures")
def test_trajectories_from_the_reference_need_their_frames(run, subject, reference) -> None:
    with pytest.raises(InputError, match="3 log-weights of reference frames came with 2 frame numbers"):
        analyse(
            run,
            replace(subject, reference_log_weights=np.zeros(3), reference_frames=np.zeros(2, dtype=int)),
            reference,
        )
    unseen = np.array([-70.0, np.inf, -70.0])
    metrics = analyse(run, replace(subject, reference_log_weights=unseen, reference_frames=np.arange(3)), reference)
    assert metrics["eubo"]["value"] is None and metrics["ess_forward"]["value"] == 0.0
    assert "the policy hardly visits" in (run / "report.html").read_text()


def test_another_molecule_is_refused(run, subject, reference, peptide) -> None:
    with pytest.raises(InputError, match="have 22 atoms and the molecule 'ala3' has 3"):
        analyse(run, Subject("ala3", 300.0, np.zeros((3, 3))))
    topology = peptide.topology.subset(range(10))
    run.write_samples(peptide.positions[None, :10], topology, np.zeros(1), np.zeros(1), np.zeros(1))
    with pytest.raises(InputError, match="10 atoms and the reference 22"):
        analyse(run, Subject("x", 300.0, peptide.positions[:10]), reference)
