"""Conformations to look at: frames drawn by weight, the central one of every state, superposed on each other."""

from __future__ import annotations

import numpy as np

from molsampler.analysis.observables.basins import POSITIVE_PHI
from molsampler.analysis.observables.rmsd import medoid, superposed
from molsampler.analysis.pictures.figures import SIDE_BY_SIDE
from molsampler.analysis.study import Conformations, Shown, State, Study
from molsampler.store.run_directory import resample

DRAWN = 100  # frames of all states together
FEWEST = 20  # of one state: where fewer of those lie in it, as many are drawn of it alone
GREY = "#5b6673"  # of frames in no state, and of phi > 0, which is several


def choose_conformations(study: Study) -> Conformations | None:
    """What is shown of a study whose states are known; None where no sample has weight."""
    if study.reweighted is None:
        return None
    weights, frames = study.reweighted.weights, study.samples.trajectory
    together = resample(weights, n=min(DRAWN, len(weights)))
    everything = State("", "", np.ones(len(weights), dtype=bool))
    drawn = [(state, _drawn(weights, together, state.inside)) for state in (everything, *study.states)]
    drawn = [(state, found) for state, found in drawn if len(found)]
    kept = np.unique(np.concatenate([found for _, found in drawn]))
    colours = _colours([state for state, _ in drawn])
    shown = []
    for state, found in drawn:
        central = int(np.searchsorted(kept, found[medoid(frames[found])]))
        rows = np.searchsorted(kept, np.unique(found))
        population = float(weights[state.inside].sum())
        shown.append(Shown(state.label, state.name, colours[state.label, state.name], population, rows, central))
    return Conformations(superposed(frames[kept], shown[0].central), kept, _frame_colours(study, kept, colours), shown)


def _drawn(weights: np.ndarray, together: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Frames of a state, inside (n,) bool, drawn by weights (n,): those `together` that lie in it, or a few of its own
    where they are rare; a frame may be there more than once. Empty where none has weight."""
    found, share = together[inside[together]], weights * inside
    if len(found) >= FEWEST or not share.sum() > 0:
        return found
    return resample(share / share.sum(), n=min(FEWEST, int(np.count_nonzero(share))))


def _colours(states: list[State]) -> dict[tuple[str, str], str]:
    """A colour a state, in the same order for every residue and torsion."""
    colours, given = {}, dict.fromkeys((state.label for state in states), 0)
    for state in states:
        if not state.label or state.name == POSITIVE_PHI:
            colours[state.label, state.name] = GREY
            continue
        colours[state.label, state.name] = SIDE_BY_SIDE[given[state.label] % len(SIDE_BY_SIDE)]
        given[state.label] += 1
    return colours


def _frame_colours(study: Study, frames: np.ndarray, colours: dict[tuple[str, str], str]) -> list[str]:
    """Of frames (k,), by the states of the first residue or torsion."""
    found = np.full(len(frames), GREY)
    for state in study.states:
        if state.label == study.states[0].label and state.name != POSITIVE_PHI:
            found[state.inside[frames]] = colours.get((state.label, state.name), GREY)
    return found.tolist()
