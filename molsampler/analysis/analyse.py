"""From the files of a run directory to its figures, pictures and report: the one place that joins the analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from molsampler.analysis import divergences, estimates, figures
from molsampler.analysis.energies import quantiles
from molsampler.analysis.estimates import Estimate, weighted_mean
from molsampler.analysis.figures import Ensemble
from molsampler.analysis.ramachandran import Basins, find_basins, populations
from molsampler.analysis.reference import Reference
from molsampler.analysis.report import write_report
from molsampler.analysis.rmsd import lowest_in_basins, rmsd_to, rmsd_to_nearest
from molsampler.analysis.run_directory import RunDirectory, Samples
from molsampler.analysis.summary import build_report
from molsampler.analysis.torsions import BackbonePair, backbone_pairs, phi_psi, torsion_angles, torsion_names
from molsampler.analysis.training_figure import draw_training
from molsampler.errors import InputError


@dataclass(frozen=True)
class Subject:
    """What an analysis needs to know of the molecule beside the files.

    temperature : K;  input_positions : (N, 3) nm;  soft_quadruples : the soft torsions, (k, 4) atom indices
    minimise : structures (k, N, 3) nm to the minima below them, for "nearest basin minimum"; without it the frames of
        lowest energy stand for the minima
    details : (name, text) rows on the molecule for the report;  method : a paragraph;  command : what repeats the run
    """

    name: str
    temperature: float
    input_positions: np.ndarray
    soft_quadruples: Sequence[Sequence[int]] = ()
    minimise: Callable[[np.ndarray], np.ndarray] | None = None
    details: Sequence[tuple[str, str]] = ()
    method: str = ""
    command: str = ""


@dataclass
class Findings:
    """What the steps of an analysis hand on: metrics by stable name, basins, populations, sentences for the report."""

    metrics: dict[str, Any] = field(default_factory=dict)
    pair: BackbonePair | None = None
    basins: Basins | None = None
    populations: dict[str, Estimate] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def analyse(
    run: RunDirectory, subject: Subject, reference: Reference | None = None, metrics: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Draws every picture, completes metrics.json, writes report.html; returns the metrics.

    metrics : figures known to the caller (learnt log Z, EUBO, timings, the ESS of SMC ...) as (value, error) pairs or
        numbers; they take the place of what the analysis finds by the same name, and of those in an earlier
        metrics.json
    Raises InputError where the samples are missing or damaged, or fit neither the subject nor the reference.
    """
    samples = run.load_samples()
    _check(samples, subject, reference)
    findings = Findings()
    _weights(samples, findings)
    _ramachandran(run, samples, subject, reference, findings)
    _torsions(run, samples, subject, reference, findings)
    _energies(run, samples, reference, findings)
    _rmsds(run, samples, subject, reference, findings)
    draw_training(run.metrics_columns(), run / "training.png")
    run.write_metrics({**run.load_metrics(), **findings.metrics, **(metrics or {})})
    written = run.load_metrics()
    write_report(build_report(run, subject, samples, reference, findings, written), run / "report.html")
    return written


def _check(samples: Samples, subject: Subject, reference: Reference | None) -> None:
    n = samples.trajectory.n_atoms
    if np.shape(subject.input_positions) != (n, 3):
        raise InputError(
            f"The samples have {n} atoms and the molecule '{subject.name}' has {len(subject.input_positions)}: "
            "name the molecule that the run was made for."
        )
    if reference is not None and reference.trajectory.n_atoms != n:
        raise InputError(
            f"The samples have {n} atoms and the reference {reference.trajectory.n_atoms}: it is another molecule's."
        )


def _ensembles(raw: np.ndarray, weights: np.ndarray | None, reference: np.ndarray | None) -> list[Ensemble]:
    """What a picture shows, in order: reweighted samples where there are weights, raw ones, the reference where there
    is one.
    """
    shown = [] if weights is None else [Ensemble("reweighted", raw, weights)]
    shown.append(Ensemble("raw", raw))
    return shown if reference is None else [*shown, Ensemble("reference", reference)]


def _weights(samples: Samples, findings: Findings) -> None:
    log_weights, weights = samples.log_weights, samples.weights
    inside = np.isfinite(log_weights)
    findings.metrics |= {
        "samples": len(log_weights),
        "ess": estimates.ess_fraction(log_weights),
        "log_z_estimate": estimates.log_z_estimate(log_weights),
        "elbo": estimates.elbo(log_weights),
        "fraction_outside_support": estimates.outside_support(log_weights),
        "largest_weight": 0.0 if weights is None else float(weights.max()),
    }
    if samples.group is not None:
        ess, log_z = estimates.run_estimates(log_weights, samples.group)
        findings.metrics |= {"ess": ess, "log_z_estimate": log_z, "runs": len(np.unique(samples.group))}
        del findings.metrics["elbo"]  # the log-weights are no longer those of trajectories
    if not inside.any():
        findings.notes.append("No sample lies on the support, so nothing could be reweighted.")


def _ramachandran(
    run: RunDirectory, samples: Samples, subject: Subject, reference: Reference | None, findings: Findings
) -> None:
    pairs = backbone_pairs(samples.trajectory.topology)
    if not pairs:
        findings.notes.append("The molecule has no residue with both phi and psi, so there is no Ramachandran map.")
        (run / "ramachandran.png").unlink(missing_ok=True)
        return
    findings.pair = pair = pairs[0]
    if len(pairs) > 1:
        findings.notes.append(
            f"The map and the basins are those of {pair.residue}, the first of {len(pairs)} residues."
        )
    angles, weights = phi_psi(samples.trajectory, pair), samples.weights
    known = None if reference is None else phi_psi(reference.trajectory, pair)
    basins = reference.basins if reference is not None else None
    findings.basins = basins = basins or find_basins(angles, weights)
    findings.populations = populations(basins, angles, weights, samples.group)
    label = basins.assign(angles)
    findings.found = {name: int((label == k).sum()) for k, name in enumerate(basins.names)}
    findings.found["phi > 0"] = int((angles[:, 0] > 0).sum())
    for name, estimate in findings.populations.items():
        findings.metrics[f"population_{slug(name)}"] = estimate
    if reference is not None and known is not None:
        for name, estimate in reference.populations.items():
            findings.metrics[f"reference_population_{slug(name)}"] = estimate
        for measure, value in divergences.compare_maps(angles, weights, known).items():
            findings.metrics[f"ramachandran_{measure}"] = value
        halves = np.unique(reference.ladder, return_inverse=True)[1] % 2
        if 0 < halves.sum() < len(halves):
            floor = divergences.compare_maps(known[halves == 0], None, known[halves == 1])
            findings.metrics |= {f"ramachandran_{measure}_reference_halves": value for measure, value in floor.items()}
    figures.draw_ramachandran(
        _ensembles(angles, weights, known), basins, subject.temperature, run / "ramachandran.png", pair.residue
    )


def _torsions(
    run: RunDirectory, samples: Samples, subject: Subject, reference: Reference | None, findings: Findings
) -> None:
    quadruples = [tuple(q) for q in subject.soft_quadruples]
    if (
        findings.pair is not None
    ):  # a soft torsion about phi's bond may be defined by other atoms; show phi and psi as such
        bonds = {frozenset(findings.pair.phi[1:3]), frozenset(findings.pair.psi[1:3])}
        rest = [q for q in quadruples if frozenset(q[1:3]) not in bonds]
        quadruples = [findings.pair.phi, findings.pair.psi, *rest]
    if not quadruples:
        findings.notes.append("The molecule has no soft torsion, so there are no torsion marginals.")
        (run / "torsions.png").unlink(missing_ok=True)
        return
    names = torsion_names(samples.trajectory.topology, quadruples)
    angles = torsion_angles(samples.trajectory, quadruples)
    known = None if reference is None else torsion_angles(reference.trajectory, quadruples)
    if known is not None:
        gaps = [
            divergences.compare_torsion(angles[:, k], samples.weights, known[:, k])["jsd"] for k in range(len(names))
        ]
        findings.metrics |= {f"torsion_jsd_{slug(name)}": gap for name, gap in zip(names, gaps, strict=True)}
        findings.metrics["torsion_jsd_mean"] = float(np.mean(gaps))
    figures.draw_torsions(_ensembles(angles, samples.weights, known), names, run / "torsions.png")


def _energies(run: RunDirectory, samples: Samples, reference: Reference | None, findings: Findings) -> None:
    energy, weights = samples.potential_energy, samples.weights
    known = None if reference is None else reference.potential_energy
    if weights is not None:
        findings.metrics["mean_energy"] = weighted_mean(energy, weights, samples.group)
        findings.metrics["median_energy_raw"] = float(quantiles(energy, None, [0.5])[0])
    if reference is not None:
        findings.metrics["reference_mean_energy"] = estimates.grouped_mean(reference.potential_energy, reference.ladder)
        if weights is not None:
            for order in (1, 2):
                gap = divergences.line_wasserstein(energy, weights, reference.potential_energy, None, order)
                findings.metrics[f"energy_w{order}"] = gap
    if known is None and not np.isfinite(energy).any():
        findings.notes.append("No sample has a finite energy, so there is no energy histogram.")
        (run / "energy.png").unlink(missing_ok=True)
        return
    figures.draw_energy(_ensembles(energy, weights, known), run / "energy.png")


def _rmsds(
    run: RunDirectory, samples: Samples, subject: Subject, reference: Reference | None, findings: Findings
) -> None:
    frames, weights = samples.trajectory, samples.weights
    known = None if reference is None else reference.trajectory
    to_input = rmsd_to(frames, subject.input_positions)
    findings.metrics["rmsd_input"] = weighted_mean(to_input, weights, samples.group)
    minima = None
    if findings.basins is not None and findings.pair is not None:
        source, energy = frames, samples.potential_energy
        if reference is not None:
            source, energy = reference.trajectory, reference.potential_energy
        names, minima = lowest_in_basins(source, energy, findings.basins, phi_psi(source, findings.pair))
        if subject.minimise is not None and len(minima):
            minima = subject.minimise(minima)
        kind = "minima" if subject.minimise is not None else "frames of lowest energy"
        findings.captions["minima"] = f"The basin minima are {kind} of {', '.join(names)}."
    nearest: list[Ensemble] = []
    if minima is not None and len(minima):
        distance = rmsd_to_nearest(frames, minima)[0]
        findings.metrics["rmsd_nearest_minimum"] = weighted_mean(distance, weights, samples.group)
        nearest = _ensembles(distance, weights, None if known is None else rmsd_to_nearest(known, minima)[0])
    known_input = None if known is None else rmsd_to(known, subject.input_positions)
    figures.draw_rmsd(_ensembles(to_input, weights, known_input), nearest, run / "rmsd.png")


def slug(name: str) -> str:
    """A name fit for metrics.json: "phi > 0" is "phi_positive", "phi ALA2" is "phi_ALA2", "(60, -120)" is "60_-120"."""
    kept = "".join(c if c.isalnum() or c == "-" else "_" for c in name.replace("> 0", "positive"))
    return "_".join(part for part in kept.split("_") if part)
