"""From the files of a run directory to its figures, pictures and report: the one place that joins the analysis."""

from __future__ import annotations

from typing import Any

import numpy as np

from molsampler.analysis import steps
from molsampler.analysis.reference_ensemble import Reference
from molsampler.analysis.report.page import write_report
from molsampler.analysis.report.summary import build_report
from molsampler.analysis.study import Study, Subject
from molsampler.basis.errors import InputError
from molsampler.store.run_directory import RunDirectory, Samples

__all__ = ["Subject", "analyse"]


def analyse(
    run: RunDirectory, subject: Subject, reference: Reference | None = None, metrics: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Draws every picture, completes metrics.json, writes report.html; returns the metrics.

    metrics : figures known to the caller (learnt log Z, timings ...) as (value, error) pairs or numbers; they take the
        place of what the analysis finds by the same name. Nothing of an earlier metrics.json is kept.
    Raises InputError where the samples are missing or damaged, or fit neither the subject nor the reference.
    """
    samples = run.load_samples()
    _check(samples, subject, reference)
    study = Study.of(run, subject, samples, reference)
    for step in steps.ALL:
        step(study)
    run.write_metrics({**study.metrics, **(metrics or {})})
    written = run.load_metrics()
    write_report(build_report(study, written), run / "report.html")
    return written


def _check(samples: Samples, subject: Subject, reference: Reference | None) -> None:
    n = samples.trajectory.n_atoms
    if np.shape(subject.input_positions) != (n, 3):
        raise InputError(
            f"The samples have {n} atoms and the molecule '{subject.name}' has {len(subject.input_positions)}: "
            "name the molecule that the run was made for."
        )
    if reference is None:
        return
    if reference.trajectory.n_atoms != n:
        raise InputError(
            f"The samples have {n} atoms and the reference {reference.trajectory.n_atoms}: it is another molecule's."
        )
    frames, weights = subject.reference_frames, subject.reference_log_weights
    if weights is not None and (frames is None or np.shape(frames) != np.shape(weights) or not len(weights)):
        raise InputError(
            f"{len(weights)} log-weights of reference frames came with {0 if frames is None else len(frames)} frame "
            "numbers: hand in one frame number for each, and at least one."
        )
