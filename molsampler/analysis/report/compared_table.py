"""The report's table of distances from the reference, out of the figures of metrics.json that have a floor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from molsampler.analysis.report.page import ComparedRow, greek, number

_KINDS = {
    "tv": "total variation",
    "kl": "KL divergence, reference to samples (nat)",
    "jsd": "Jensen-Shannon divergence (nat)",
    "w2": "2-Wasserstein distance (rad)",
}
_OTHERS = {
    "Potential energy": {
        "energy_w1": "1-Wasserstein distance (kJ/mol)",
        "energy_w2": "2-Wasserstein distance (kJ/mol)",
    },
    "Interatomic distances": {
        "distance_w1_mean": "1-Wasserstein distance, mean over pairs (nm)",
        "distance_w1_largest": "1-Wasserstein distance, largest of all pairs (nm)",
    },
}


def above_floor(entry: dict[str, Any]) -> bool:
    """Whether a compared figure lies so far above its floor that finite samples do not explain it: by more than four of
    the floor's spreads (its stderr, where that is larger) and by more than a tenth."""
    if any(entry.get(key) is None for key in ("value", "floor", "floor_spread")):
        return False
    spread = max(entry["floor_spread"], entry["stderr"] or 0.0)
    return entry["value"] > entry["floor"] + 4 * spread and entry["value"] > 1.1 * entry["floor"]


def compared_rows(metrics: dict[str, Any], residues: list[str]) -> list[ComparedRow]:
    """Every figure that has a floor, reweighted beside raw; `metrics` as in metrics.json.

    Of a molecule with several `residues` the rows are each residue's own and the mean over them.
    """
    rows = []
    for group, name, label in _layout(metrics, residues):
        entry, raw = metrics.get(name), metrics.get(f"{name}_raw")
        shown = entry or raw
        if shown is not None:
            floor = number(shown["floor"], shown["floor_spread"])
            rows.append(ComparedRow(group, label, _text(entry), _text(raw), floor, above_floor(entry or {})))
    return rows


def _layout(metrics: dict[str, Any], residues: list[str]) -> Iterator[tuple[str, str, str]]:
    """(group, name of the figure, label) in the order of the table."""
    parts = [("", residues[0])] if len(residues) == 1 else [(f"_{residue}", residue) for residue in residues]
    if len(residues) > 1:
        parts.append(("", "mean of all"))
    for suffix, residue in parts if residues else []:
        for grid, cells in (("", "100 × 100 bins"), ("_64", "64 × 64 bins")):
            for kind in ("tv", "kl", "jsd"):
                yield f"Ramachandran map, {residue}, {cells}", f"ramachandran_{kind}{grid}{suffix}", _KINDS[kind]
        yield f"φ and ψ on the torus, {residue}, cells of 7.5°", f"ramachandran_w2{suffix}", _KINDS["w2"]
    for kind in ("kl", "jsd"):
        start = f"torsion_{kind}_"
        for name in metrics:
            if name.startswith(start) and not name.endswith("_raw"):
                torsion = name.removeprefix(start).replace("_", " ").replace("mean", "mean of all")
                yield f"Torsions, 100 bins: {_KINDS[kind]}", name, greek(torsion).replace("psi", "ψ")
    for group, names in _OTHERS.items():
        for name, label in names.items():
            yield group, name, label


def _text(entry: dict[str, Any] | None) -> str:
    value, error = (math.nan, math.nan) if entry is None else (entry["value"], entry["stderr"])
    return number(math.nan if value is None else value, error)
