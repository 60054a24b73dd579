"""Which piece a frame lies in, by arithmetic of its own; populations of pieces by weights and by a reference."""

from __future__ import annotations

import mdtraj as md
import numpy as np
import pytest
import torch

from molsampler.analysis import steps
from molsampler.analysis.analyse import Subject
from molsampler.analysis.observables.basins import counted_basins, indicators, state_names
from molsampler.analysis.observables.pieces import Pieces
from molsampler.analysis.observables.torsions import backbone_pairs
from molsampler.analysis.report.metric_names import find
from molsampler.analysis.report.summary import build_report
from molsampler.analysis.study import Study
from molsampler.molecules.coordinates.pieces import nearest
from molsampler.store.run_directory import RunDirectory, Samples


def test_a_point_belongs_to_the_centre_that_it_is_nearest_to():
    rng = np.random.default_rng(0)
    centres = rng.uniform(-np.pi, np.pi, (5, 3))
    pieces = Pieces(np.zeros((3, 4), dtype=int), centres)
    angles = rng.uniform(-np.pi, np.pi, (4000, 3))
    # chords in the plane of each torsion, the longer the further apart
    chord = np.abs(np.exp(1j * angles)[:, None] - np.exp(1j * centres))
    expected = np.square(chord).sum(-1).argmin(-1)
    assert np.array_equal(pieces.assign(angles), expected) and len(set(expected)) == 5
    assert np.array_equal(nearest(torch.tensor(angles), torch.tensor(centres)).numpy(), expected)
    assert state_names(pieces) == ("piece 1", "piece 2", "piece 3", "piece 4", "piece 5")
    assert np.array_equal(indicators(pieces, angles).argmax(1), expected)
    assert bool((indicators(pieces, angles).sum(1) == 1).all())


def test_populations_of_frames_have_jackknife_errors():
    rng = np.random.default_rng(1)
    angles = rng.choice([0.1, 3.0], size=(4000, 1), p=[0.3, 0.7])
    pieces = Pieces(np.zeros((1, 4), dtype=int), np.array([[0.0], [np.pi]]))
    found = counted_basins("pieces", angles, np.arange(4000) // 100, 300.0, pieces)
    value, stderr = found.populations["piece 1"]
    assert value == pytest.approx((angles[:, 0] < 1.0).mean())
    assert stderr == pytest.approx(np.sqrt(0.21 / 4000), rel=0.4)  # 40 ladders know it to 11 %


def test_a_run_in_pieces_is_told_by_piece(peptide, mixture, tmp_path):
    """Samples drawn half and half from two sides of phi, weighted to 0.9 and 0.1."""
    rng = np.random.default_rng(2)
    angles, _ = mixture(rng, 4000, [0.25, 0.25, 0.25, 0.25])
    frames = md.Trajectory(peptide.frames(angles).astype(np.float32), peptide.topology)
    phi = backbone_pairs(peptide.topology)[0].phi
    pieces = Pieces(np.array([phi]), np.array([[-np.pi / 2], [np.pi / 2]]))
    inside = pieces.assign(pieces.angles(frames)) == 0
    log_w = np.log(np.where(inside, 0.9 / inside.mean(), 0.1 / (1.0 - inside.mean())))
    study = Study.of(
        RunDirectory(tmp_path),
        Subject("aldp", 300.0, peptide.positions, pieces=pieces),
        Samples(frames, log_w, np.zeros(4000), log_w),
        None,
    )
    for step in steps.ALL:
        step(study)
    population = study.metrics["population_pieces_piece_1"]
    assert population[0] == pytest.approx(0.9) and 0.0 < population[1] < 0.02
    assert study.metrics["population_pieces_piece_1_raw"][0] == pytest.approx(inside.mean())
    energy = study.metrics["free_energy_pieces_piece_2"][0]
    assert energy == pytest.approx(8.314462618e-3 * 300.0 * np.log(9.0), rel=1e-6)
    assert study.pieces.found == {"piece 1": int(inside.sum()), "piece 2": int((~inside).sum())}
    assert find("population_pieces_piece_1").meaning.startswith("population of a piece")
    study.run.write_metrics(study.metrics)
    assert [name for name, _ in build_report(study, study.run.load_metrics()).residues] == ["ALA2", "pieces"]
