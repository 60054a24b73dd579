"""Whether a policy covers the molecule, judged by states that it did not make: no reference is needed.

The populations of every basin by the policy's importance weights and by the independent states' own, and how much of
the latter's weight lies where the policy has less than a hundredth of the density that it should. A policy that misses
a state knows nothing of it; these states do.
"""

from __future__ import annotations

import numpy as np

from molsampler.analysis.observables.basins import ResidueBasins, deviation, indicators, state_names, weighted_basins
from molsampler.analysis.observables.pieces import Pieces
from molsampler.analysis.observables.ramachandran import Basins, common_wells
from molsampler.analysis.observables.torsions import phi_psi, torsion_angles, torsion_names
from molsampler.analysis.statistics import estimates
from molsampler.analysis.statistics.bootstrap import Weighting
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.statistics.few import Counted, counted, share_interval
from molsampler.analysis.study import PIECES, Coverage, CoverageRow, Drawn, Independent, State, Study, slug

HUNDREDTH = np.log(100.0)


def coverage(study: Study) -> None:
    """A step of the analysis: figures annealed_* and coverage_z_*, and `study.coverage` for report and verdict."""
    other = study.subject.independent
    if other is None or study.reweighted is None:
        return
    n = len(other.weights)
    weighting = Weighting.of("", other.weights, n, study.generator, other.groups, other.effective)
    log_z = Estimate(*study.metrics["log_z_estimate"])
    # one trajectory a state, as from a reference: means over several would flatter the policy
    study.metrics["annealed_eubo"], study.metrics["annealed_ess_forward"] = estimates.upper_bound(
        other.log_weights[:, 0], other.groups, log_z, other.weights
    )
    rows, places = [], []
    for label, mine, found, angles in _parts(study):
        theirs = weighted_basins(label, mine.basins, angles, weighting, study.subject.temperature)
        inside = indicators(mine.basins, angles)
        for k, state in enumerate(state_names(mine.basins)):
            rows.append(_row(study, label, state, found[state], mine, theirs, inside[:, k]))
        places.append((label, mine.basins, inside))
    short = other.log_excess - log_z.value > HUNDREDTH
    there, rest = (counted(other.weights, flags, other.groups, other.effective) for flags in (short, ~short))
    low, high = share_interval(there, rest)
    # a state of next to no weight says no more than none at all: a typical one may have been missed as well
    nothing = counted(other.weights, np.zeros_like(short), other.groups, other.effective)
    span = low, max(high, share_interval(nothing, rest)[1])
    share = Estimate(float(other.weights[short].sum()), (span[1] - span[0]) / 2)
    where = _where(places, other, short)
    study.coverage = Coverage(rows, share, span, where, other.effective)
    study.metrics |= {
        "annealed_states": n,
        "annealed_effective_samples": other.effective,
        "annealed_log_z": other.log_z,
        "annealed_uncovered": share,
    }
    for row in rows:
        name = f"{slug(row.label)}_{slug(row.state)}"
        study.metrics[f"annealed_population_{name}"] = row.independent
        study.metrics[f"coverage_z_{name}"] = row.z
        if f"population_{name}" not in study.metrics:  # wells of torsions have no other table
            study.metrics[f"population_{name}"] = row.samples


def _parts(study: Study) -> list[tuple[str, ResidueBasins, dict[str, int], np.ndarray]]:
    """Label, populations of the samples, how many lie in each state, and angles of the independent states: residues
    with phi and psi, the molecule's pieces, then soft torsions about other bonds."""
    frames, other = study.samples.trajectory, study.subject.independent.trajectory
    parts = [(r.pair.residue, r.samples[""], r.found, phi_psi(other, r.pair)) for r in study.residues]
    if study.pieces is not None:
        parts.append((PIECES, study.pieces.samples[""], study.pieces.found, study.subject.pieces.angles(other)))
    bonds = {frozenset(q[1:3]) for r in study.residues for q in (r.pair.phi, r.pair.psi)}
    rest = [q for q in study.subject.soft_quadruples if frozenset(q[1:3]) not in bonds]
    for quadruple, name in zip(rest, torsion_names(frames.topology, rest), strict=True):
        one = [quadruple]
        basins = common_wells(*study.of_each(lambda t, one=one: torsion_angles(t, one)))
        if len(basins.names) > 1:
            angles = torsion_angles(frames, one)
            mine = weighted_basins(name, basins, angles, study.reweighted, study.subject.temperature)
            inside = indicators(basins, angles)
            found = dict(zip(state_names(basins), inside.sum(0).tolist(), strict=True))
            study.states += [State(name, state, inside[:, k]) for k, state in enumerate(state_names(basins))]
            parts.append((name, mine, found, torsion_angles(other, one)))
    return parts


def _row(
    study: Study,
    label: str,
    state: str,
    found: int,
    mine: ResidueBasins,
    theirs: ResidueBasins,
    inside: np.ndarray,
) -> CoverageRow:
    a, b = mine.populations[state], theirs.populations[state]
    spans = mine.span(state), theirs.span(state)
    z = deviation(a.value, spans[0], b.value, spans[1])
    drawn = None
    if study.samples.group is None:  # particles are not what the policy draws
        n = len(study.samples.log_weights)
        span = share_interval(Counted(found, 1.0 / n), Counted(n - found, 1.0 / n))
        drawn = Drawn(found / n, deviation(found / n, span, b.value, spans[1]))
    return CoverageRow(label, state, found, a, spans[0], b, spans[1], z, drawn, inside)


def _where(places: list[tuple[str, Basins | Pieces, np.ndarray]], other: Independent, short: np.ndarray) -> list[str]:
    """By residue or torsion, the state that most of the uncovered weight lies in, where that is more than half and more
    than the state's share of all weight."""
    total = other.weights[short].sum()
    if not total > 0:
        return []
    named = []
    for label, basins, inside in places:
        columns = inside[:, : len(basins.names)]
        shares = (other.weights[short] @ columns[short]) / total
        usual = other.weights @ columns
        k = int(np.argmax(shares / np.maximum(usual, 1e-12) * (shares > 0.5)))
        if shares[k] > 0.5 and shares[k] > 1.5 * usual[k]:
            named.append(f"{basins.names[k]} of {label}")
    return named
