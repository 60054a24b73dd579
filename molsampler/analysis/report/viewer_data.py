"""What the report's interactive view shows, as JSON for the page's script.

The view is a list of scenes. A scene shows a few frames thick and others thin, each in a colour; it has one for all
states together, one for the representatives of each residue or torsion, and one a state, which a row of a table names.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from molsampler.analysis.observables.torsions import phi_psi
from molsampler.analysis.pictures.conformations import ELEMENTS
from molsampler.analysis.pictures.figures import greek as greek_torsion
from molsampler.analysis.report.page import ViewerData, greek, percent
from molsampler.analysis.study import Conformations, Shown, Study


def viewer_data(study: Study) -> ViewerData | None:
    """Of an analysed run; None where there is nothing to show.

    `data` has colours by element; elements (N,) and bonds (b, 2); positions, base64 of (k, N, 3) little-endian int16 in
    picometres; said, a sentence a frame; scenes, each with group, name, said, thick and thin [[frame, colour], ...] and
    legend [[colour, name], ...].
    """
    shown = study.conformations
    if shown is None:
        return None
    atoms = shown.trajectory.topology.atoms
    picometres = np.clip(np.rint(shown.trajectory.xyz * 1000), -32767, 32767).astype("<i2")
    scenes, found = [_together(shown)], {}
    for label in shown.labels:
        scenes.append(_representatives(label, shown.basins(label)))
        for state in (state for state in shown.states if state.label == label):
            found[label, state.name] = len(scenes)
            scenes.append(_of_state(state))
    return ViewerData(
        {
            "colours": ELEMENTS,
            "elements": ["X" if a.element is None else a.element.symbol for a in atoms],
            "bonds": [[a.index, b.index] for a, b in shown.trajectory.topology.bonds],
            "positions": base64.b64encode(picometres.tobytes()).decode("ascii"),
            "said": _sentences(study, shown),
            "scenes": scenes,
        },
        found,
    )


def _together(shown: Conformations) -> dict[str, Any]:
    """All frames drawn by weight, in the colours of the first residue's (or torsion's) states."""
    everything, first = shown.states[0], shown.basins(shown.labels[0]) if shown.labels else []
    coloured = f", in the colours of {greek_torsion(first[0].label)}" if first else ""
    return {
        "group": "",
        "name": "all states",
        "said": f"{len(everything.drawn)} frames of all states, drawn by weight{coloured}.",
        "thick": [[everything.central, shown.colours[everything.central]]],
        "thin": [[int(row), shown.colours[row]] for row in everything.drawn],
        "legend": _legend(first),
    }


def _representatives(label: str, basins: list[Shown]) -> dict[str, Any]:
    return {
        "group": greek_torsion(label),
        "name": "one frame of each state",
        "said": f"The central frame of each state of {greek_torsion(label)}, superposed.",
        "thick": [[state.central, state.colour] for state in basins],
        "thin": [],
        "legend": _legend(basins),
    }


def _of_state(state: Shown) -> dict[str, Any]:
    n = len(state.drawn)
    frames = f"{n} frames" if n > 1 else "one frame"
    where = f"{greek(state.name)} of {greek_torsion(state.label)}"
    return {
        "group": greek_torsion(state.label),
        "name": f"{greek(state.name)}, {percent(state.population)}",
        "said": f"{where}, {percent(state.population)} by weight: {frames} drawn by weight.",
        "thick": [[state.central, state.colour]],
        "thin": [[int(row), state.colour] for row in state.drawn],
        "legend": _legend([state]),
    }


def _legend(states: list[Shown]) -> list[list[str]]:
    return [[state.colour, greek(state.name)] for state in states]


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
