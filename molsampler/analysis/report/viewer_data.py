"""What the report's interactive view shows, as JSON for the page's script.

The view is a list of scenes. A scene shows a few frames thick and others thin, each in a colour; it has one for all
states together, one for the representatives of each residue or torsion, and one a state, which a row of a table names.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from molsampler.analysis.observables.basins import POSITIVE_PHI
from molsampler.analysis.observables.torsions import phi_psi
from molsampler.analysis.pictures.figures import SIDE_BY_SIDE
from molsampler.analysis.pictures.figures import greek as greek_torsion
from molsampler.analysis.report.page import ViewerData, greek, percent
from molsampler.analysis.study import Conformations, Shown, Study

_GREY = "#5b6673"  # of frames that belong to no state


def viewer_data(study: Study) -> ViewerData | None:
    """Of an analysed run; None where there is nothing to show.

    `data` has elements (N,) and bonds (b, 2); positions, base64 of (k, N, 3) little-endian int16 in picometres; said, a
    sentence a frame; scenes, each with group, name, said, thick and thin [[frame, colour], ...] and legend [[colour,
    name], ...].
    """
    shown = study.conformations
    if shown is None:
        return None
    atoms = shown.trajectory.topology.atoms
    picometres = np.clip(np.rint(shown.trajectory.xyz * 1000), -32767, 32767).astype("<i2")
    colours = _colours(shown)
    scenes, found = [_together(shown, colours)], {}
    for label in dict.fromkeys(state.label for state in shown.states[1:]):
        states = [state for state in shown.states if state.label == label]
        scenes.append(_representatives(label, states, colours))
        for state in states:
            found[label, state.name] = len(scenes)
            scenes.append(_of_state(state, colours[label, state.name]))
    return ViewerData(
        {
            "elements": ["X" if a.element is None else a.element.symbol for a in atoms],
            "bonds": [[a.index, b.index] for a, b in shown.trajectory.topology.bonds],
            "positions": base64.b64encode(picometres.tobytes()).decode("ascii"),
            "said": _sentences(study, shown),
            "scenes": scenes,
        },
        found,
    )


def _colours(shown: Conformations) -> dict[tuple[str, str], str]:
    """A colour a state, the same order for every residue; phi > 0, which is several basins, has grey."""
    colours, counts = {}, dict.fromkeys((state.label for state in shown.states), 0)
    for state in shown.states[1:]:
        if state.name == POSITIVE_PHI:
            colours[state.label, state.name] = _GREY
            continue
        colours[state.label, state.name] = SIDE_BY_SIDE[counts[state.label] % len(SIDE_BY_SIDE)]
        counts[state.label] += 1
    return colours


def _together(shown: Conformations, colours: dict[tuple[str, str], str]) -> dict[str, Any]:
    """All frames drawn by weight, in the colours of the first residue's (or torsion's) states."""
    everything, *states = shown.states
    first = [s for s in states if s.label == states[0].label and s.name != POSITIVE_PHI]
    colour = {int(row): colours[s.label, s.name] for s in first for row in s.drawn}
    n = len(everything.drawn)
    return {
        "group": "",
        "name": "all states",
        "said": f"{n} frames of all states, drawn by weight{_coloured(first)}.",
        "thick": [[everything.central, colour.get(everything.central, _GREY)]],
        "thin": [[int(row), colour.get(int(row), _GREY)] for row in everything.drawn],
        "legend": [[colours[s.label, s.name], greek(s.name)] for s in first],
    }


def _coloured(states: list[Shown]) -> str:
    return f", in the colours of {greek_torsion(states[0].label)}" if states else ""


def _representatives(label: str, states: list[Shown], colours: dict[tuple[str, str], str]) -> dict[str, Any]:
    basins = [s for s in states if s.name != POSITIVE_PHI]
    return {
        "group": greek_torsion(label),
        "name": "one frame of each state",
        "said": f"The central frame of each state of {greek_torsion(label)}, superposed.",
        "thick": [[s.central, colours[label, s.name]] for s in basins],
        "thin": [],
        "legend": [[colours[label, s.name], greek(s.name)] for s in basins],
    }


def _of_state(state: Shown, colour: str) -> dict[str, Any]:
    n = len(state.drawn)
    frames = f"{n} frames" if n > 1 else "one frame"
    where = f"{greek(state.name)} of {greek_torsion(state.label)}"
    return {
        "group": greek_torsion(state.label),
        "name": f"{greek(state.name)}, {percent(state.population)}",
        "said": f"{where}, {percent(state.population)} by weight: {frames} drawn by weight.",
        "thick": [[state.central, colour]],
        "thin": [[int(row), colour] for row in state.drawn],
        "legend": [[colour, greek(state.name)]],
    }


def _sentences(study: Study, shown: Conformations) -> list[str]:
    """What is said of each frame: its place, weight, energy, and phi and psi by residue."""
    samples = study.samples
    angles = [
        (f"{f.pair.residue} " if len(study.residues) > 1 else "", np.rad2deg(phi_psi(shown.trajectory, f.pair)))
        for f in study.residues
    ]
    said = []
    for row, frame in enumerate(shown.frames):
        parts = [
            f"frame {frame} of samples.dcd",
            f"{percent(float(study.reweighted.weights[frame]))} of all weight",
            f"{_signed(samples.potential_energy[frame], 1)} kJ/mol",
        ]
        parts += [f"{residue}φ {_signed(a[row, 0])}°, ψ {_signed(a[row, 1])}°" for residue, a in angles]
        said.append(", ".join(parts))
    return said


def _signed(value: float, digits: int = 0) -> str:
    """A number with a minus sign that is read as one."""
    return f"{value:.{digits}f}".replace("-", "−")
