"""The steps of an analysis: each takes the study, adds its figures to `metrics` and leaves its picture in the run."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

from molsampler.analysis.conformations import choose_conformations
from molsampler.analysis.coverage import coverage
from molsampler.analysis.observables.basins import (
    ResidueBasins,
    counted_basins,
    indicators,
    state_names,
    weighted_basins,
)
from molsampler.analysis.observables.bond_graph import graph_of
from molsampler.analysis.observables.distances import distances, distant_pairs
from molsampler.analysis.observables.energies import quantiles
from molsampler.analysis.observables.pieces import Pieces
from molsampler.analysis.observables.ramachandran import Basins, common_basins
from molsampler.analysis.observables.rmsd import lowest_in_basins, rmsd_to, rmsd_to_nearest
from molsampler.analysis.observables.stereochemistry import cis, inverted
from molsampler.analysis.observables.torsions import (
    BackbonePair,
    backbone_pairs,
    phi_psi,
    torsion_angles,
    torsion_names,
)
from molsampler.analysis.pictures import figures
from molsampler.analysis.pictures.conformations import Panel, draw_conformations
from molsampler.analysis.pictures.ramachandran import Map, draw_ramachandran
from molsampler.analysis.pictures.temperatures import draw_temperatures
from molsampler.analysis.pictures.training import draw_training
from molsampler.analysis.report.page import greek, percent
from molsampler.analysis.report.temperatures_text import temperature_metrics
from molsampler.analysis.statistics import estimates
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.statistics.measures import Distances, Histograms, Lines, TorusTransport
from molsampler.analysis.statistics.pareto import k_threshold, pareto_k
from molsampler.analysis.study import PIECES, ResidueFindings, State, StateFindings, Study, slug
from molsampler.store.run_directory import TEMPERATURES_PNG

TORSION_BINS = 100
MAP_BINS = {"": 100, "_64": 64}  # by suffix of the figure's name: of TA-BG and CMT, of FAB's published code
TRANSPORT_BINS = 48
MOST_MAPS = 3  # residues in the picture
MOST_PANELS = 8  # states in the picture of conformations


def weights(study: Study) -> None:
    """Effective sample size, log Z, bounds, support, and how heavy the tail of the weights is."""
    samples, metrics = study.samples, study.metrics
    log_weights, n = samples.log_weights, len(samples.log_weights)
    if samples.group is None:
        ess, log_z = estimates.ess_fraction(log_weights), estimates.log_z_estimate(log_weights)
        metrics["elbo"] = estimates.elbo(log_weights)
    else:  # log-weights are then no longer those of trajectories, and there is no ELBO
        ess, log_z = estimates.run_estimates(log_weights, samples.group)
        metrics["runs"] = len(np.unique(samples.group))
        if samples.distinct_ancestors is not None:
            metrics["smc_distinct_ancestors"] = float(np.mean(samples.distinct_ancestors))
    metrics |= {
        "samples": n,
        "ess": _with_interval(ess, None if samples.group is not None else estimates.ess_interval(log_weights)),
        "effective_samples": (ess.value * n, ess.stderr * n),
        "log_z_estimate": log_z,
        "fraction_outside_support": estimates.outside_support(log_weights),
        "largest_weight": 0.0 if samples.weights is None else float(samples.weights.max()),
    }
    if samples.group is None:
        metrics["pareto_k"] = pareto_k(log_weights, study.generator)
        metrics["pareto_k_threshold"] = k_threshold(n)
        tail = study.smoothed_log_weights
        if tail is not None:
            metrics["ess_smoothed"] = (estimates.ess_fraction(tail).value, None)
            metrics["log_z_estimate_smoothed"] = (estimates.log_z_estimate(tail).value, None)
    if study.reference is not None:
        metrics["reference_frames"] = study.reference.trajectory.n_frames
        if study.subject.reference_log_weights is not None:
            _upper_bound(study, log_z)
    if study.reweighted is None:
        study.notes.append("No sample lies on the support, so nothing could be reweighted.")
        (study.run / "weights.png").unlink(missing_ok=True)
    else:
        _draw(study, "weights.png", figures.draw_weights, log_weights)


def _with_interval(estimate: Estimate, interval: tuple[float, float] | None) -> Estimate | dict[str, float]:
    """An entry of metrics.json: with `low` and `high` where an interval says more than an error."""
    if interval is None or not np.isfinite(interval).any():
        return estimate
    return {**estimate.as_dict(), "low": interval[0], "high": interval[1]}


def _upper_bound(study: Study, log_z: Estimate) -> None:
    """EUBO and forward effective sample size, from trajectories noised from the reference."""
    log_weights = np.asarray(study.subject.reference_log_weights, dtype=np.float64)
    ladder = study.reference.ladder[np.asarray(study.subject.reference_frames)]
    study.metrics["eubo_trajectories"] = len(log_weights)
    study.metrics["eubo"], study.metrics["ess_forward"] = estimates.upper_bound(log_weights, ladder, log_z)


def backbone(study: Study) -> None:
    """Ramachandran maps, their divergences, basins, populations and free energies, residue by residue."""
    pairs = backbone_pairs(study.samples.trajectory.topology)
    if not pairs:
        study.notes.append("The molecule has no residue with both phi and psi, so there is no Ramachandran map.")
        (study.run / "ramachandran.png").unlink(missing_ok=True)
        return
    maps = [_residue(study, pair) for pair in pairs]
    if study.reference is not None:
        for suffix in (w.suffix for w in study.weightings):
            for kind in [f"{m}{grid}" for grid in MAP_BINS for m in ("kl", "jsd", "tv")] + ["w2"]:
                entries = [study.metrics[f"ramachandran_{kind}_{pair.residue}{suffix}"] for pair in pairs]
                study.metrics[f"ramachandran_{kind}{suffix}"] = _averaged(entries)
    if len(maps) > MOST_MAPS:
        study.notes.append(
            f"The picture shows the first {MOST_MAPS} of {len(maps)} residues with phi and psi; the tables have all."
        )
    _draw(study, "ramachandran.png", draw_ramachandran, maps[:MOST_MAPS], study.subject.temperature)


def _residue(study: Study, pair: BackbonePair) -> Map:
    """One residue's figures; returns what its picture shows."""
    temperature = study.subject.temperature
    angles = phi_psi(study.samples.trajectory, pair)
    known = None if study.reference is None else phi_psi(study.reference.trajectory, pair)
    stored = None if study.reference is None else study.reference.residues.get(pair.residue)
    if stored is None and known is not None:
        stored = counted_basins(pair.residue, known, study.reference.ladder, temperature)
    basins = stored.basins if stored is not None else common_basins(*study.of_each(lambda t: phi_psi(t, pair)))
    findings = _states(study, pair.residue, basins, angles, stored)
    study.residues.append(ResidueFindings(**vars(findings), pair=pair))
    if known is not None:
        for grid, bins in MAP_BINS.items():
            names = {f"ramachandran_{kind}{grid}_{pair.residue}": kind for kind in ("kl", "jsd", "tv")}
            study.compare(Histograms(angles, known, bins, names))
        study.compare(TorusTransport(angles, known, TRANSPORT_BINS, f"ramachandran_w2_{pair.residue}"))
    return Map(pair.residue, study.ensembles(angles, known), basins)


def _states(
    study: Study, label: str, basins: Basins | Pieces, angles: np.ndarray, stored: ResidueBasins | None
) -> StateFindings:
    """Populations and free energies of the states that the samples' angles (n, d) lie in, and `stored`, those of the
    reference; their figures go into the metrics."""
    temperature = study.subject.temperature
    zero = None if stored is None else min(stored.free_energies, key=lambda name: stored.free_energies[name].value)
    found = {w.suffix: weighted_basins(label, basins, angles, w, temperature, zero) for w in study.weightings}
    inside = indicators(basins, angles)
    names = state_names(basins)
    study.states += [State(label, name, inside[:, k]) for k, name in enumerate(names)]
    counts = dict(zip(names, inside.sum(0).tolist(), strict=True))
    heaviest, tail = {}, {}
    if study.reweighted is not None:
        w = study.reweighted.weights
        heaviest = {name: float(np.max(w, where=inside[:, k], initial=0.0)) for k, name in enumerate(names)}
    if study.smoothed is not None:
        tail = dict(zip(names, map(float, study.smoothed @ inside), strict=True))
        study.metrics |= {f"population_{label}_{slug(name)}_smoothed": (p, None) for name, p in tail.items()}
    for prefix, suffix, item in [("", w, i) for w, i in found.items()] + (
        [("reference_", "", stored)] if stored else []
    ):
        for kind, values in (("population", item.populations), ("free_energy", item.free_energies)):
            spans = item.spans if kind == "population" else item.free_spans
            study.metrics |= {
                f"{prefix}{kind}_{label}_{slug(name)}{suffix}": _with_interval(value, spans.get(name))
                for name, value in values.items()
            }
    return StateFindings(found, stored, counts, heaviest, tail)


def pieces(study: Study) -> None:
    """Populations and free energies of the molecule's pieces, where it is in several."""
    known = study.subject.pieces
    if known is None:
        return
    stored = None
    if study.reference is not None:
        frames, ladder = study.reference.trajectory, study.reference.ladder
        stored = counted_basins(PIECES, known.angles(frames), ladder, study.subject.temperature, known)
    study.pieces = _states(study, PIECES, known, known.angles(study.samples.trajectory), stored)


def torsions(study: Study) -> None:
    """Marginals of phi, psi and the other soft torsions."""
    bonds = {frozenset(q[1:3]) for r in study.residues for q in (r.pair.phi, r.pair.psi)}
    # a soft torsion about phi's bond may be defined by other atoms; phi and psi are shown as such
    rest = [tuple(q) for q in study.subject.soft_quadruples if frozenset(q[1:3]) not in bonds]
    quadruples = [q for r in study.residues for q in (r.pair.phi, r.pair.psi)] + rest
    if not quadruples:
        study.notes.append("The molecule has no soft torsion, so there are no torsion marginals.")
        (study.run / "torsions.png").unlink(missing_ok=True)
        return
    names = torsion_names(study.samples.trajectory.topology, quadruples)
    angles = torsion_angles(study.samples.trajectory, quadruples)
    known = None if study.reference is None else torsion_angles(study.reference.trajectory, quadruples)
    if known is not None:
        for k, name in enumerate(names):
            wanted = {f"torsion_{kind}_{slug(name)}": kind for kind in ("kl", "jsd")}
            study.compare(Histograms(angles[:, [k]], known[:, [k]], TORSION_BINS, wanted))
        for suffix in (w.suffix for w in study.weightings):
            for kind in ("kl", "jsd"):
                entries = [study.metrics[f"torsion_{kind}_{slug(name)}{suffix}"] for name in names]
                study.metrics[f"torsion_{kind}_mean{suffix}"] = _averaged(entries)
    _draw(study, "torsions.png", figures.draw_torsions, study.ensembles(angles, known), names)


def _averaged(entries: list[dict[str, float]]) -> dict[str, float]:
    """The mean of several compared figures. Their errors and spreads are averaged too, as of figures that rise and fall
    together: too large rather than too small."""
    return {field: float(np.mean([entry[field] for entry in entries])) for field in entries[0]}


def energies(study: Study) -> None:
    """Potential energies of samples and reference."""
    energy = study.samples.potential_energy
    known = None if study.reference is None else study.reference.potential_energy
    study.mean("mean_energy", energy, known)
    study.metrics["median_energy_raw"] = float(quantiles(energy, None, [0.5])[0])
    study.metrics["energies_not_finite"] = int((~np.isfinite(energy)).sum())
    if known is not None:
        study.compare(Lines(energy, known, {"energy_w1": 1, "energy_w2": 2}))
    elif not np.isfinite(energy).any():
        study.notes.append("No sample has a finite energy, so there is no energy histogram.")
        (study.run / "energy.png").unlink(missing_ok=True)
        return
    _draw(study, "energy.png", figures.draw_energy, study.ensembles(energy, known))


def geometry(study: Study) -> None:
    """Interatomic distances beside the reference; stereocentres and amides by the geometry of the frames."""
    frames, reference = study.samples.trajectory, study.reference
    pairs = distant_pairs(frames.topology)
    study.metrics["distance_pairs"] = len(pairs)
    if reference is not None and len(pairs):
        both = distances(frames, pairs), distances(reference.trajectory, pairs)
        study.compare(Distances(*both, "distance_w1_mean", "distance_w1_largest"))
    graph = graph_of(frames.topology)
    study.metrics["stereocentres"] = len(graph.stereocentres)
    study.metrics["amides"] = len(graph.isomeric_amides)
    for name, flags in (("inverted", lambda t: inverted(t, study.subject.input_positions)), ("cis", cis)):
        found = flags(frames)
        study.metrics[f"count_{name}_raw"] = int(found.sum())
        study.mean(f"fraction_{name}", found, None if reference is None else flags(reference.trajectory))


def rmsd(study: Study) -> None:
    """RMSD to the input structure and to the nearest basin minimum."""
    frames, reference = study.samples.trajectory, study.reference
    known = None if reference is None else reference.trajectory
    structure = study.subject.input_positions
    to_input = rmsd_to(frames, structure)
    known_input = None if known is None else rmsd_to(known, structure)
    study.mean("rmsd_input", to_input, known_input)
    nearest = []
    minima = _minima(study)
    if len(minima):
        distance = rmsd_to_nearest(frames, minima)
        known_distance = None if known is None else rmsd_to_nearest(known, minima)
        study.mean("rmsd_nearest_minimum", distance, known_distance)
        nearest = study.ensembles(distance, known_distance)
    _draw(study, "rmsd.png", figures.draw_rmsd, study.ensembles(to_input, known_input), nearest)


def _minima(study: Study) -> np.ndarray:
    """(k, N, 3) nm: minima of the basins of every residue, from the reference where there is one."""
    source, energy = study.samples.trajectory, study.samples.potential_energy
    if study.reference is not None:
        source, energy = study.reference.trajectory, study.reference.potential_energy
    names, structures = [], []
    for residue in study.residues:
        basins = next(iter(residue.samples.values())).basins
        found, lowest = lowest_in_basins(source, energy, basins, phi_psi(source, residue.pair))
        names += [name if len(study.residues) == 1 else f"{residue.pair.residue} {name}" for name in found]
        structures += list(lowest)
    if not structures:
        return np.zeros((0, source.n_atoms, 3))
    minima = np.stack(structures)
    kind = "frames of lowest energy"
    if study.subject.minimise is not None:
        minima, kind = study.subject.minimise(minima), "minima"
    study.captions["rmsd.png"] = f"The basin minima are {kind} of {', '.join(map(greek, names))}."
    return minima


def conformations(study: Study) -> None:
    """Frames to look at, of all states and of each, and a picture of those of the first residue or torsion."""
    study.conformations = shown = choose_conformations(study)
    if shown is None:
        (study.run / "conformations.png").unlink(missing_ok=True)
        return
    frames = shown.trajectory.xyz
    panels = []
    for state in [shown.states[0], *(shown.basins(shown.labels[0]) if shown.labels else [])][:MOST_PANELS]:
        title = f"{greek(state.name)}, {percent(state.population)}" if state.label else "all states"
        colours = [state.colour if state.label else shown.colours[row] for row in state.drawn]
        colour = state.colour if state.label else shown.colours[state.central]
        panels.append(Panel(title, frames[state.central], frames[state.drawn], colours, colour))
    _draw(study, "conformations.png", draw_conformations, shown.trajectory.topology, panels)


def temperatures(study: Study) -> None:
    """Figures of a policy for a range of temperatures, at each of those that it was sampled at."""
    rows = study.subject.temperatures
    if not rows:
        (study.run / TEMPERATURES_PNG).unlink(missing_ok=True)
        return
    study.metrics |= temperature_metrics(rows)
    _draw(study, TEMPERATURES_PNG, draw_temperatures, rows)


def training(study: Study) -> None:
    """Training curves."""
    _draw(study, "training.png", draw_training, study.run.metrics_columns())


def _draw(study: Study, name: str, draw: Callable[..., None], *arguments: Any) -> None:
    """The picture, and a version of it in one column that the report shows on a telephone."""
    draw(*arguments, study.run / name)
    buffer = BytesIO()
    draw(*arguments, buffer, narrow=True)
    study.narrow[name] = buffer.getvalue()


ALL = (weights, backbone, pieces, torsions, coverage, energies, geometry, rmsd, conformations, temperatures, training)
