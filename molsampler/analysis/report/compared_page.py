"""The page and the JSON of a comparison of ensembles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from molsampler.analysis.comparison import Comparison, Divergence, States
from molsampler.analysis.pictures.figures import SIDE_BY_SIDE
from molsampler.analysis.pictures.figures import greek as greek_torsion
from molsampler.analysis.report.compared_table import above_floor
from molsampler.analysis.report.page import greek, number, percent, percent_between, sigmas, write_page
from molsampler.store.atomic import write_json

APART = 3.0  # standard errors beyond which a population is marked


class Cell(NamedTuple):
    """Text of a cell, what stands under it, and whether it is marked."""

    text: str
    below: str
    off: bool


class Row(NamedTuple):
    """One line of a table: its label and a cell a member."""

    label: str
    cells: list[Cell]


def write_comparison(comparison: Comparison, page: Path) -> None:
    """`page`, one HTML file that needs no network, and the same numbers in a JSON file beside it."""
    write_page(
        "compare.html",
        page,
        comparison=comparison,
        members=_members(comparison),
        populations=[(_title(s), _populations(s)) for s in comparison.states],
        free_energies=[(_title(s), _free_energies(s)) for s in comparison.states],
        divergences=_divergence_tables(comparison),
        sentences=summary(comparison),
    )
    write_json(page.with_suffix(".json"), as_json(comparison))


def summary(comparison: Comparison) -> list[str]:
    """What stands out, member by member against the first, in sentences."""
    said = []
    first = comparison.members[0].name
    for k, member in enumerate(comparison.members[1:], 1):
        far = [(z[k], s, name) for s in comparison.states for name, z in s.z.items() if z[k] is not None]
        far = sorted((item for item in far if abs(item[0]) > APART), key=lambda item: -abs(item[0]))
        total = sum(len(s.names) for s in comparison.states)
        above = [d for d in comparison.divergences if above_floor(d.others[k - 1].as_dict())]
        if far:
            z, states, name = far[0]
            values = (
                percent(states.members[k].populations[name].value),
                percent(states.members[0].populations[name].value),
            )
            said.append(
                f"{member.name}: {len(far)} of {total} populations differ from {first} by more than three standard "
                f"errors; furthest is {greek(name)} of {greek_torsion(states.label)}, {values[0]} for {values[1]} "
                f"({sigmas(z)})."
            )
        else:
            said.append(f"{member.name}: all {total} populations agree with {first} within three standard errors.")
        if above:
            worst = max(above, key=lambda d: d.others[k - 1].value - d.others[k - 1].floor)
            figure = worst.others[k - 1]
            said.append(
                f"{member.name}: {len(above)} of {len(comparison.divergences)} divergences from {first} lie clearly "
                f"above what finite samples of one ensemble show; furthest is the {_KINDS[worst.kind]} of "
                f"{greek_torsion(worst.label)}, {number(figure.value, figure.stderr)} over a floor of "
                f"{number(figure.floor, figure.floor_spread)}."
            )
        elif comparison.divergences:
            said.append(f"{member.name}: no divergence from {first} lies clearly above its floor.")
    return said


_KINDS = {"tv": "total variation", "jsd": "Jensen-Shannon divergence"}
_WHAT = {"run": "weighted samples of a run", "reference": "stored reference", "trajectory": "trajectory"}


def _members(comparison: Comparison) -> list[dict[str, str]]:
    return [
        {
            "name": m.name,
            "colour": SIDE_BY_SIDE[k % len(SIDE_BY_SIDE)],
            "what": _WHAT[m.kind],
            "frames": f"{m.n:,}",
            "worth": f"{m.effective:,.0f}",
        }
        for k, m in enumerate(comparison.members)
    ]


def _title(states: States) -> str:
    return greek_torsion(states.label)


def _populations(states: States) -> list[Row]:
    rows = []
    for name in states.names:
        cells = []
        for k, member in enumerate(states.members):
            value, stderr = member.populations[name]
            text = percent(value, stderr) if name not in member.spans else percent_between(value, *member.spans[name])
            z = states.z[name][k]
            cells.append(Cell(text, "" if k == 0 else sigmas(z), z is not None and abs(z) > APART))
        rows.append(Row(greek(name), cells))
    return rows


def _free_energies(states: States) -> list[Row]:
    rows = []
    first = states.members[0].free_energies
    for name in states.members[0].basins.names:
        cells = []
        for k, member in enumerate(states.members):
            value, stderr = member.free_energies[name]
            gap = value - first[name].value
            below = "" if k == 0 or not math.isfinite(gap) else number(gap, math.hypot(stderr, first[name].stderr))
            below = f"+{below}" if below and gap > 0 else below.replace("-", "−")
            cells.append(Cell(number(value, stderr), below, False))
        rows.append(Row(greek(name), cells))
    return rows


def _divergence_tables(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    tables = []
    for of, title in (("map", "Ramachandran maps, cells of 10°"), ("torsion", "Torsions, cells of 5°")):
        for kind, words in _KINDS.items():
            rows = [
                Row(greek_torsion(d.label), [_divergence_cell(d, k) for k in range(len(d.others))])
                for d in comparison.divergences
                if d.of == of and d.kind == kind
            ]
            if rows:
                tables.append((f"{title}: {words}{' (nat)' if kind == 'jsd' else ''}", rows))
    return tables


def _divergence_cell(divergence: Divergence, k: int) -> Cell:
    figure = divergence.others[k]
    floor = f"floor {number(figure.floor, figure.floor_spread)}"
    return Cell(number(figure.value, figure.stderr), floor, above_floor(figure.as_dict()))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Every number of the page, by member, residue or torsion, and state; what is not known is null."""
    names = [m.name for m in comparison.members]
    return {
        "temperature": comparison.temperature,
        "members": [
            {"name": m.name, "kind": m.kind, "frames": m.n, "effective_frames": m.effective} for m in comparison.members
        ],
        "populations": {
            s.label: {name: _populations_json(s, name, names) for name in s.names} for s in comparison.states
        },
        "free_energies": {
            s.label: {
                name: {
                    who: {**b.free_energies[name].as_dict(), "interval": b.free_spans.get(name)}
                    for who, b in zip(names, s.members, strict=True)
                }
                for name in s.members[0].basins.names
            }
            for s in comparison.states
        },
        "divergences": [
            {
                "of": d.of,
                "label": d.label,
                "kind": d.kind,
                "against": names[0],
                "members": {who: f.as_dict() for who, f in zip(names[1:], d.others, strict=True)},
            }
            for d in comparison.divergences
        ],
        "notes": comparison.notes,
        "summary": summary(comparison),
    }


def _populations_json(states: States, name: str, names: list[str]) -> dict[str, Any]:
    return {
        who: {**b.populations[name].as_dict(), "interval": list(b.span(name)), "z": z}
        for who, b, z in zip(names, states.members, states.z[name], strict=True)
    }
