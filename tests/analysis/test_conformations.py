"""Conformations to look at: drawn by weight, the central one of each state, and what the page's script is given."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path

import mdtraj as md
import numpy as np
import pytest

from molsampler.analysis import report, steps
from molsampler.analysis.analyse import Subject
from molsampler.analysis.conformations import DRAWN, FEWEST
from molsampler.analysis.observables.torsions import phi_psi
from molsampler.analysis.report.viewer_data import viewer_data
from molsampler.analysis.report.viewer_files import packed_library, viewer_file
from molsampler.analysis.study import Study
from molsampler.store.run_directory import RunDirectory, Samples

SHARES = np.array([0.5, 0.3, 0.18, 0.02])  # by weight; as drawn a quarter each
N = 2000


def studied(peptide, mixture, tmp_path, log_weights=None) -> Study:
    """N samples, a quarter of them in each of four basins, one basin after the other, weighted to SHARES."""
    angles, mode = mixture(np.random.default_rng(0), N, [0.25] * 4, width=0.15)
    angles, mode = angles[np.argsort(mode)], np.sort(mode)
    log_w = np.log(SHARES)[mode] if log_weights is None else log_weights(mode)
    trajectory = md.Trajectory(peptide.frames(angles).astype(np.float32), peptide.topology)
    samples = Samples(trajectory, log_w, np.arange(N) - 100.0, log_w)
    study = Study.of(RunDirectory(tmp_path), Subject("aldp", 300.0, peptide.positions), samples, None)
    steps.backbone(study)
    steps.conformations(study)
    return study


@pytest.fixture(scope="module")
def study(peptide, mixture, tmp_path_factory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_draw", lambda *arguments: None)
        return studied(peptide, mixture, tmp_path_factory.mktemp("run"))


def by_name(study: Study) -> dict:
    return {state.name: state for state in study.conformations.states}


def test_frames_of_all_states_are_drawn_by_weight(study) -> None:
    """Systematic draws of a hundred: a state whose samples follow each other has its share, to one more or less; none
    comes twice, for no sample carries a hundredth of all weight."""
    shown, found = study.conformations, by_name(study)
    together = set(found[""].drawn)
    assert len(together) == DRAWN
    inside = {state.name: state.inside for state in study.states}
    weights = study.reweighted.weights
    for name in ("C7eq", "C5", "alphaR"):
        share = weights[inside[name]].sum()
        mine = [row for row in together if inside[name][shown.frames[row]]]
        assert abs(len(mine) - DRAWN * share) <= 1
        if len(mine) >= FEWEST:
            assert sorted(mine) == list(found[name].drawn)
    assert len(found["C7eq"].drawn) > 40 and len(found["C5"].drawn) > 20


def test_a_rare_state_has_frames_of_its_own(study) -> None:
    shown, rare = study.conformations, by_name(study)["alphaL"]
    inside = next(state.inside for state in study.states if state.name == "alphaL")
    assert len(rare.drawn) == FEWEST and inside[shown.frames[rare.drawn]].all()
    assert rare.population == pytest.approx(study.reweighted.weights[inside].sum())
    assert set(rare.drawn) - set(by_name(study)[""].drawn)


def test_the_central_frame_is_near_the_middle_of_its_state(study, mixture) -> None:
    angles = phi_psi(study.conformations.trajectory, study.residues[0].pair)
    for name, middle in zip(("C7eq", "C5", "alphaR", "alphaL"), mixture.modes, strict=True):
        state = by_name(study)[name]
        assert state.central in state.drawn
        away = np.abs((angles[state.central] - middle + np.pi) % (2 * np.pi) - np.pi)
        assert away.max() < 0.15  # one standard deviation of the state: a frame at random lies within it in 47 %


def test_what_has_no_weight_is_never_shown(peptide, mixture, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "_draw", lambda *arguments: None)
    with np.errstate(divide="ignore"):
        study = studied(peptide, mixture, tmp_path, lambda mode: np.log(np.array([1.0, 1.0, 1.0, 0.0]))[mode])
    assert "alphaL" in [state.name for state in study.states] or "phi > 0" in [state.name for state in study.states]
    assert {"alphaL", "phi > 0"}.isdisjoint(by_name(study))
    assert (study.reweighted.weights[study.conformations.frames] > 0).all()


def test_without_any_weight_nothing_is_shown(peptide, mixture, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "_draw", lambda *arguments: None)
    study = studied(peptide, mixture, tmp_path, lambda mode: np.full(N, -np.inf))
    assert study.conformations is None and viewer_data(study) is None


def test_the_page_is_given_the_frames_of_the_run(study) -> None:
    """Distances between atoms as in samples.dcd, to a picometre of rounding an atom; the sentence of each frame."""
    view, shown = viewer_data(study), study.conformations
    positions = np.frombuffer(base64.b64decode(view.data["positions"]), "<i2").reshape(len(shown.frames), 22, 3) / 1e3
    truth = study.samples.trajectory.xyz[shown.frames]
    apart = [np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) for x in (positions, truth)]
    assert np.abs(apart[0] - apart[1]).max() < 0.002
    handed = [np.linalg.det(x[:, [6, 10, 14]] - x[:, [8]]) for x in (positions, truth)]
    assert np.array_equal(np.sign(handed[0]), np.sign(handed[1]))
    assert view.data["elements"] == [a.element.symbol for a in peptide_atoms(study)]
    assert sorted(map(tuple, view.data["bonds"])) == sorted(
        (a.index, b.index) for a, b in shown.trajectory.topology.bonds
    )
    phi, psi = np.rad2deg(phi_psi(study.samples.trajectory, study.residues[0].pair))[shown.frames[7]]
    energy = shown.frames[7] - 100.0
    said = view.data["said"][7].replace("−", "-")
    assert said.startswith(f"frame {shown.frames[7]} of samples.dcd, ")
    assert said.endswith(f", {energy:.1f} kJ/mol, φ {phi:.0f}°, ψ {psi:.0f}°")


def peptide_atoms(study: Study) -> list:
    return list(study.samples.trajectory.topology.atoms)


def test_every_state_has_its_scene(study) -> None:
    view, found = viewer_data(study), by_name(study)
    scenes = view.data["scenes"]
    assert scenes[0]["name"] == "all states" and len(scenes[0]["thin"]) == DRAWN
    assert [frame for frame, _ in scenes[1]["thick"]] == [
        s.central for s in found.values() if s.label and s.name != "phi > 0"
    ]
    assert len({colour for _, colour in scenes[1]["thick"]}) == len(scenes[1]["thick"])
    for name, state in found.items():
        if state.label:
            scene = scenes[view.scene("ALA2", name)]
            assert [frame for frame, _ in scene["thin"]] == list(state.drawn) and scene["thick"][0][0] == state.central
    assert view.scene("ALA2", "nowhere") is None
    colours = dict(zip([name for _, name in scenes[1]["legend"]], [c for c, _ in scenes[1]["legend"]], strict=True))
    inside = next(state.inside for state in study.states if state.name == "C5")
    for frame, colour in scenes[0]["thin"]:
        assert (colour == colours["C5"]) == inside[study.conformations.frames[frame]]


def test_the_bundled_viewer_is_the_published_one() -> None:
    """Byte for byte, by its README; the page names the same version and shows its licence."""
    folder, readme = Path(report.__file__).parent, viewer_file("README.md")
    assert hashlib.sha256((folder / "viewer" / "3Dmol-min.js").read_bytes()).hexdigest() in readme
    (version,) = set(re.findall(r"3dmol[-@](\d+\.\d+\.\d+)", readme))
    template = (folder / "templates" / "conformations.html").read_text(encoding="utf-8")
    assert f"3Dmol.js {version} " in template and f"](https://3dmol.org) {version} " in readme
    assert "University of Pittsburgh" in viewer_file("LICENSES.txt")
    unpacked = gzip.decompress(base64.b64decode(packed_library())).decode("utf-8")
    assert unpacked == viewer_file("3Dmol-min.js") and len(packed_library()) < 250_000
