"""Conformations to look at: frames drawn by weight, the central one of every state, superposed on each other."""

from __future__ import annotations

import numpy as np

from molsampler.analysis.observables.rmsd import medoid, superposed
from molsampler.analysis.study import Conformations, Shown, State, Study
from molsampler.store.run_directory import resample

DRAWN = 100  # frames of all states together
FEWEST = 20  # of one state: where fewer of those lie in it, as many are drawn of it alone


def conformations(study: Study) -> None:
    """A step of the analysis: `study.conformations` for the report; figures are untouched."""
    if study.reweighted is None:
        return
    weights, frames = study.reweighted.weights, study.samples.trajectory
    everything = State("", "", np.ones(len(weights), dtype=bool))
    together = resample(weights, n=min(DRAWN, len(weights)))
    drawn = [(state, _drawn(weights, together, state.inside)) for state in (everything, *study.states)]
    drawn = [(state, found) for state, found in drawn if len(found)]
    kept = np.unique(np.concatenate([found for _, found in drawn]))
    shown = []
    for state, found in drawn:
        central = found[medoid(frames[found])]
        rows = np.searchsorted(kept, np.unique(found))
        population = float(weights[state.inside].sum())
        shown.append(Shown(state.label, state.name, population, rows, int(np.searchsorted(kept, central))))
    study.conformations = Conformations(superposed(frames[kept], shown[0].central), kept, shown)


def _drawn(weights: np.ndarray, together: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Frames of a state, inside (n,) bool, drawn by weights (n,): those `together` that lie in it, or a few of its own
    where they are rare; a frame may be there more than once. Empty where none has weight."""
    found, share = together[inside[together]], weights * inside
    if len(found) >= FEWEST or not share.sum() > 0:
        return found
    return resample(share / share.sum(), n=min(FEWEST, int(np.count_nonzero(share))))
