"""From run directory to pictures and report: figures against the truth, pictures, words, edge cases."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib.image
import mdtraj as md
import numpy as np
import pytest

from molsampler.analysis import figures
from molsampler.analysis.analyse import Subject, analyse, slug
from molsampler.analysis.estimates import Estimate
from molsampler.analysis.figures import Ensemble
from molsampler.analysis.reference import save_reference
from molsampler.analysis.report import number, percent, sigmas
from molsampler.analysis.run_directory import PICTURES, RunDirectory
from molsampler.analysis.summary import deviation
from molsampler.analysis.training_figure import draw_training
from molsampler.errors import InputError

TRUTH = np.array([0.5, 0.3, 0.17, 0.03])
PROPOSAL = np.array([0.4, 0.3, 0.2, 0.1])


def assert_picture(path, smallest: int = 300) -> None:
    """The file decodes to an image of some size that holds many colours, more than a blank page or bare axes have."""
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] >= smallest and pixels.shape[1] >= smallest
    red, green, blue = np.moveaxis((pixels[..., :3] * 255).astype(np.int64), -1, 0)
    colours = np.unique((red * 256 + green) * 256 + blue)
    assert len(colours) > 50
    assert 0.02 < (pixels[..., :3].min(-1) < 0.97).mean() < 0.95


@pytest.fixture(scope="module")
def reference(peptide, mixture, tmp_path_factory):
    rng = np.random.default_rng(0)
    angles, _ = mixture(rng, 4000, list(TRUTH))
    return save_reference(
        tmp_path_factory.mktemp("reference"),
        positions=peptide.frames(angles),
        topology=peptide.topology,
        potential_energy=rng.normal(-50.0, 8.0, 4000),
        ladder=np.arange(4000) // 100,
        summary={"command": "molsampler reference aldp"},
    )


@pytest.fixture
def run(peptide, mixture, tmp_path) -> RunDirectory:
    rng = np.random.default_rng(1)
    angles, mode = mixture(rng, 4000, list(PROPOSAL))
    log_w = np.log(TRUTH / PROPOSAL)[mode] - 70.0
    log_w[:100] = -np.inf
    energy = rng.normal(-50.0, 8.0, 4000)
    energy[:50] = np.inf
    run = RunDirectory.claim(tmp_path / "run")
    run.write_samples(peptide.frames(angles), peptide.openmm_topology, log_w, energy, log_w)
    for k in range(12):
        run.append_metrics_row(
            {"update": k, "seconds": 10.0 * k, "loss": 5.0 / (k + 1), "ess": k / 30, "elbo": -80.0 + k}
        )
    (run / "config.toml").write_text('seed = 7\nname = "<b>aldp</b>"\n')
    yield run
    run.release()


@pytest.fixture
def subject(peptide) -> Subject:
    return Subject(
        "aldp", 300.0, peptide.positions, [peptide.pair.phi, peptide.pair.psi, peptide.methyl], command="run it"
    )


def test_a_run_beside_its_reference(run, subject, reference) -> None:
    metrics = analyse(run, subject, reference, {"log_z": (-70.1, None), "ess_last": 0.5})
    share = np.square((PROPOSAL * TRUTH / PROPOSAL).sum()) / (TRUTH**2 / PROPOSAL).sum() * 0.975
    assert abs(metrics["ess"]["value"] - share) < 4 * metrics["ess"]["stderr"] + 0.005
    assert metrics["fraction_outside_support"]["value"] == pytest.approx(0.025)
    assert abs(metrics["log_z_estimate"]["value"] - (-70.0 + np.log(0.975))) < 0.1
    for name, truth in zip(("C7eq", "C5", "alphaR", "alphaL"), TRUTH, strict=True):
        found = metrics[f"population_{name}"]
        assert abs(found["value"] - truth) < 4 * found["stderr"] + 0.003
        assert metrics[f"reference_population_{name}"]["value"] == pytest.approx(truth, abs=0.04)
    assert metrics["log_z"] == {"value": -70.1, "stderr": None}
    for name in ("ramachandran_jsd", "torsion_jsd_phi_ALA2", "torsion_jsd_psi_ALA2"):
        assert 0 < metrics[name]["value"] < 0.1
    assert metrics["energy_w1"]["value"] < 1.0
    assert 0 < metrics["rmsd_nearest_minimum"]["value"] < metrics["rmsd_input"]["value"]
    for name in PICTURES:
        assert_picture(run / name)
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page.replace("http-equiv", "")
    assert "agree with the reference within three standard errors" in page
    assert "seed = 7" in page and "&lt;b&gt;" in page and "<b>aldp" not in page
    assert "run it" in page and "molsampler reference aldp" in page


def test_wrong_populations_and_missing_states_are_said(run, subject, reference, peptide, mixture) -> None:
    angles, _ = mixture(np.random.default_rng(2), 3000, [0.8, 0.1, 0.1, 0.0])
    zeros = np.zeros(3000)
    run.write_samples(peptide.frames(angles), peptide.openmm_topology, zeros, zeros - 50.0, zeros)
    analyse(run, subject, reference)
    page = (run / "report.html").read_text()
    assert "The samples miss αL" in page
    assert "More than three standard errors from the reference: C7eq" in page
    assert 'class="verdict poor"' in page


def test_a_run_without_reference(run, subject) -> None:
    metrics = analyse(run, subject)
    assert "ramachandran_jsd" not in metrics and "population_C7eq" in metrics
    for name in PICTURES:
        assert_picture(run / name)
    assert "no reference to compare with" in (run / "report.html").read_text()


def test_minima_are_what_the_minimiser_makes_of_the_lowest_frames(run, subject, reference) -> None:
    seen = []

    def minimise(structures: np.ndarray) -> np.ndarray:
        seen.append(structures.shape)
        return structures + 1.0

    analyse(run, replace(subject, minimise=minimise), reference)
    assert seen == [(4, 22, 3)]
    assert "basin minima are minima of" in (run / "report.html").read_text()


def test_no_sample_on_the_support_is_said_and_drawn(run, subject, peptide) -> None:
    out = np.full(20, -np.inf)
    positions = np.repeat(peptide.positions[None], 20, 0)
    run.write_samples(positions, peptide.openmm_topology, out, -out, out)
    metrics = analyse(run, subject)
    assert metrics["ess"]["value"] == 0.0 and metrics["log_z_estimate"]["value"] is None
    page = (run / "report.html").read_text()
    assert "Not one of the 20 samples lies on the support" in page
    assert not (run / "energy.png").exists() and "torsions" in page


def test_a_single_sample_is_analysed(run, subject, peptide) -> None:
    one = np.zeros(1)
    run.write_samples(peptide.positions[None], peptide.openmm_topology, one, one, one)
    metrics = analyse(run, subject)
    assert metrics["ess"] == {"value": 1.0, "stderr": None}
    assert "A single sample carries 100\u00a0% of all weight" in (run / "report.html").read_text()


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
    analyse(run, Subject("water", 300.0, structure))
    assert not (run / "ramachandran.png").exists() and not (run / "torsions.png").exists()
    assert_picture(run / "energy.png")
    page = (run / "report.html").read_text()
    assert "no residue with both phi and psi" in page and "no soft torsion" in page


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


def test_another_molecule_is_refused(run, subject, reference, peptide) -> None:
    with pytest.raises(InputError, match="have 22 atoms and the molecule 'ala3' has 3"):
        analyse(run, Subject("ala3", 300.0, np.zeros((3, 3))))
    topology = peptide.topology.subset(range(10))
    run.write_samples(peptide.positions[None, :10], topology, np.zeros(1), np.zeros(1), np.zeros(1))
    with pytest.raises(InputError, match="10 atoms and the reference 22"):
        analyse(run, Subject("x", 300.0, peptide.positions[:10]), reference)


def test_the_training_picture_skips_what_is_missing(tmp_path) -> None:
    draw_training({}, tmp_path / "none.png")
    draw_training({"update": np.arange(5.0), "loss": np.full(5, np.nan)}, tmp_path / "nan.png")
    small = matplotlib.image.imread(tmp_path / "none.png")
    assert np.array_equal(small, matplotlib.image.imread(tmp_path / "nan.png"))
    draw_training(
        {"update": np.arange(5.0), "loss": -np.arange(5.0), "evaluations_md": np.arange(5.0)}, tmp_path / "a.png"
    )
    assert_picture(tmp_path / "a.png", 200)


def test_the_reweighted_map_shows_the_weights(tmp_path, mixture) -> None:
    angles, mode = mixture(np.random.default_rng(5), 5000, [0.25] * 4)
    weights = np.where(mode == 0, 1.0, 1e-4)
    pictures = []
    for name, w in (("plain", None), ("weighted", weights / weights.sum())):
        figures.draw_ramachandran([Ensemble("reweighted", angles, w)], None, 300.0, tmp_path / f"{name}.png")
        pictures.append(matplotlib.image.imread(tmp_path / f"{name}.png"))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).mean() > 0.02


def test_numbers_for_people() -> None:
    assert percent(0.2731, 0.0044) == "27.31 ± 0.44\u00a0%"
    assert percent(0.00271, 0.00012) == "0.271 ± 0.012\u00a0%"
    assert percent(None) == percent(float("nan")) == "–"
    assert percent(0.5, 0.0) == "50\u00a0%"
    assert sigmas(-1.24) == "−1.2\u00a0σ" and sigmas(-0.01) == "+0.0\u00a0σ" and sigmas(None) == "–"
    assert number(-71.234, 0.012) == "-71.234 ± 0.012"
    assert number(10_000) == "10,000" and number(0.012345) == "0.01235" and number(float("nan")) == "–"
    assert slug("phi > 0") == "phi_positive" and slug("(60, -120)") == "60_-120" and slug("phi ALA2") == "phi_ALA2"
    assert deviation(Estimate(0.5, 0.03), Estimate(0.4, 0.04)) == pytest.approx(2.0)
    assert deviation(Estimate(0.5, float("nan")), Estimate(0.4, 0.04)) is None
