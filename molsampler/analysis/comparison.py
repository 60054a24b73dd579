"""Ensembles side by side: populations with z-scores against the first, divergences over their floors, free energies,
and pictures on one scale. What comes out is plain numbers; `report.compared_page` makes the page and the JSON of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np

from molsampler.analysis.ensembles import Member
from molsampler.analysis.observables.basins import (
    ResidueBasins,
    deviation,
    state_names,
    weighted_basins,
)
from molsampler.analysis.observables.ramachandran import Basins, common_basins, common_wells
from molsampler.analysis.observables.torsions import (
    backbone_pairs,
    phi_psi,
    shown_torsions,
    torsion_angles,
    torsion_names,
)
from molsampler.analysis.pictures import figures
from molsampler.analysis.pictures.figures import SIDE_BY_SIDE, Ensemble
from molsampler.analysis.pictures.ramachandran import Map, draw_maps_compared
from molsampler.analysis.report.page import Picture
from molsampler.analysis.statistics.bootstrap import Compared, Draw, Measure, Weighting, compare, two_sample_draws
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.statistics.measures import Histograms

SEED = 0
MAP_BINS = 36  # cells of 10 degrees: a plain trajectory often has too few independent frames for finer ones
TORSION_BINS = 72
MOST_TORSIONS, MOST_MAPS = 24, 4  # in pictures


@dataclass(frozen=True)
class States:
    """One residue's basins, or one torsion's wells, in every member, in their order.

    label : the residue or torsion;  members : populations and free energies;  z : by state, of each member against the
    first, None for the first itself or where no error is known
    """

    label: str
    names: tuple[str, ...]
    members: list[ResidueBasins]
    z: dict[str, list[float | None]]


@dataclass(frozen=True)
class Divergence:
    """One figure of every other member against the first; label : of the residue or torsion;  kind : "tv" or "jsd";
    of : "map" or "torsion"
    """

    label: str
    of: str
    kind: str
    others: list[Compared]


@dataclass(frozen=True)
class Comparison:
    """All that was found; temperature in K."""

    members: list[Member]
    temperature: float
    states: list[States]
    divergences: list[Divergence]
    pictures: list[Picture]
    notes: list[str]


def compare_members(members: Sequence[Member], temperature: float, notes: Sequence[str] = ()) -> Comparison:
    """Members of one molecule (see `ensembles.check_same_molecule`), the first being what the others are held to."""
    members, notes = list(members), list(notes)
    generator = np.random.default_rng(SEED)
    weightings = [Weighting.of("", m.weights, m.n, generator, m.groups, m.effective) for m in members]
    pairs = [
        _Pair(members[0], m, weightings[0], w, generator) for m, w in zip(members[1:], weightings[1:], strict=True)
    ]
    topology = members[0].trajectory.topology
    weights = [m.weights for m in members]
    states, divergences, maps = [], [], []
    backbone = backbone_pairs(topology)
    for pair in backbone:
        angles = [phi_psi(m.trajectory, pair) for m in members]
        basins = _stored_basins(members, pair.residue) or common_basins(angles, weights)
        known = [m.residues.get(pair.residue) for m in members]
        states.append(_states(pair.residue, basins, angles, weightings, temperature, known))
        divergences += _divergences(pair.residue, "map", angles, MAP_BINS, pairs)
        maps.append(Map(pair.residue, _side_by_side(members, angles), basins))
    quadruples = shown_torsions(topology)
    names = torsion_names(topology, quadruples)
    angles = [torsion_angles(m.trajectory, quadruples) for m in members]
    for k, name in enumerate(names):
        column = [a[:, [k]] for a in angles]
        if k >= 2 * len(backbone):  # phi and psi have their maps
            states.append(_states(name, common_wells(column, weights), column, weightings, temperature))
        divergences += _divergences(name, "torsion", column, TORSION_BINS, pairs)
    if not quadruples:
        notes.append("The bond graph has no torsion that could turn: with a topology that has bonds there may be some.")
    notes += [caution for member in members for caution in member.cautions]
    pictures = _pictures(members, maps, names, angles, temperature, notes)
    return Comparison(members, temperature, states, divergences, pictures, notes)


class _Pair:
    """The first member beside another: what their divergences are computed with, floors included.

    A floor is the figure between two finite samples of one ensemble. That is the member of the two whose frames are
    correlated in time (only whole blocks of its frames fill cells as a trajectory does), or else the better sampled.
    """

    def __init__(
        self, first: Member, other: Member, mine: Weighting, theirs: Weighting, generator: np.random.Generator
    ) -> None:
        self.first, self.other = mine, theirs
        self.generator = generator
        rank = [(m.in_blocks, m.effective) for m in (first, other)]
        self.from_first = rank[0] >= rank[1]
        source = first if self.from_first else other
        self.draws: list[Draw] = two_sample_draws(
            source.weights,
            source.groups if source.in_blocks else None,
            source.effective,
            (other.effective, other.in_blocks),
            (first.effective, first.in_blocks),
            generator,
        )

    def compare(self, measure: Measure) -> dict[str, Compared]:
        return compare(
            measure, self.other, self.first.replicates, self.draws, self.generator, reference_weights=self.first.weights
        )


def _divergences(label: str, of: str, angles: list[np.ndarray], bins: int, pairs: list[_Pair]) -> list[Divergence]:
    first = angles[0]
    found = []
    for other, pair in zip(angles[1:], pairs, strict=True):
        source = first if pair.from_first else other
        found.append(pair.compare(Histograms(other, first, bins, {"tv": "tv", "jsd": "jsd"}, source)))
    return [Divergence(label, of, kind, [figure[kind] for figure in found]) for kind in ("tv", "jsd")]


def _stored_basins(members: list[Member], residue: str) -> Basins | None:
    """Those of the first stored reference among the members, which reports use too."""
    return next((m.residues[residue].basins for m in members if residue in m.residues), None)


def _states(
    label: str,
    basins: Basins,
    angles: list[np.ndarray],
    weightings: list[Weighting],
    temperature: float,
    known: Sequence[ResidueBasins | None] = (),
) -> States:
    """`known` : of each member, what it has stored on the residue, for the same basins: a reference's come from all its
    temperatures."""
    known = known or [None] * len(angles)
    first = weighted_basins(label, basins, angles[0], weightings[0], temperature)
    zero = min(first.free_energies, key=lambda name: first.free_energies[name].value)
    found = [
        _stored(stored, zero)
        if stored is not None and stored.basins is basins
        else weighted_basins(label, basins, a, w, temperature, zero)
        for a, w, stored in zip(angles, weightings, known, strict=True)
    ]
    names = state_names(basins)
    return States(label, names, found, {name: [None, *(_z(found[0], b, name) for b in found[1:])] for name in names})


def _stored(stored: ResidueBasins, zero: str) -> ResidueBasins:
    """The same with free energies against the basin `zero`; errors of both are then added, as of independent ones."""
    shift, error = stored.free_energies[zero]
    if shift == 0:
        return stored
    moved = {
        name: Estimate(0.0, 0.0) if name == zero else Estimate(value - shift, float(np.hypot(stderr, error)))
        for name, (value, stderr) in stored.free_energies.items()
    }
    return replace(stored, free_energies=moved)


def _z(first: ResidueBasins, other: ResidueBasins, name: str) -> float | None:
    return deviation(other.populations[name].value, other.span(name), first.populations[name].value, first.span(name))


def _side_by_side(members: list[Member], values: list[np.ndarray]) -> list[Ensemble]:
    return [
        Ensemble("compared", value, m.weights, m.name, SIDE_BY_SIDE[k % len(SIDE_BY_SIDE)])
        for k, (m, value) in enumerate(zip(members, values, strict=True))
    ]


def _pictures(
    members: list[Member],
    maps: list[Map],
    names: list[str],
    angles: list[np.ndarray],
    temperature: float,
    notes: list[str],
) -> list[Picture]:
    shown = []
    if maps:
        text = (
            "Free energy over φ and ψ by weight, all on one scale, and below it the difference to the first. Blank "
            "cells hold no frame; a difference is blank where either side has fewer than five frames in a cell."
        )
        shown.append(_picture("Ramachandran maps", text, draw_maps_compared, maps[:MOST_MAPS], temperature))
        if len(maps) > MOST_MAPS:
            notes.append(f"The picture shows the first {MOST_MAPS} of {len(maps)} maps; the tables have all.")
    if names:
        ensembles = _side_by_side(members, [a[:, :MOST_TORSIONS] for a in angles])
        text = "Marginals of the torsions by weight."
        shown.append(_picture("Torsions", text, figures.draw_torsions, ensembles, names[:MOST_TORSIONS]))
        if len(names) > MOST_TORSIONS:
            notes.append(f"The picture shows the first {MOST_TORSIONS} of {len(names)} torsions; the table has all.")
    known = [
        e
        for e, m in zip(_side_by_side(members, [_energy(m) for m in members]), members, strict=True)
        if m.energy is not None
    ]
    if known:
        without = [m.name for m in members if m.energy is None]
        text = "Potential energies by weight." + (f" None are known of {', '.join(without)}." if without else "")
        shown.append(_picture("Energy", text, figures.draw_energy, known))
    return shown


def _energy(member: Member) -> np.ndarray:
    return np.zeros(0) if member.energy is None else member.energy


def _picture(title: str, text: str, draw: Callable[..., None], *arguments: Any) -> Picture:
    versions = []
    for narrow in (False, True):
        buffer = BytesIO()
        draw(*arguments, buffer, narrow=narrow)
        versions.append(buffer.getvalue())
    return Picture(title, text, *versions)
