"""Arms and seeds of one target in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from molsampler.files import write_text

COLUMNS = {
    "ess": "ESS",
    "eubo_gap": "EUBO - log Z",
    "elbo_gap": "log Z - ELBO",
    "log_z_error": "error of IW log Z",
    "w2_squared": "W2^2",
    "w2_squared_reweighted": "W2^2 reweighted",
    "w2_squared_floor": "W2^2 floor",
    "modes_found": "modes",
    "evaluations": "evaluations",
    "training_seconds": "seconds",
}


@dataclass(frozen=True)
class Finished:
    """One run of the table: arm, seed, its folder and its metrics.json."""

    arm: str
    seed: int
    folder: Path
    metrics: dict[str, Any]

    def value(self, name: str) -> float:
        entry = self.metrics.get(name) or {}
        return float("nan") if entry.get("value") is None else float(entry["value"])


def table(finished: list[Finished]) -> pd.DataFrame:
    """One row an arm, in the order given; for every metric mean and standard deviation over seeds."""
    runs = pd.DataFrame([{"arm": run.arm} | {name: run.value(name) for name in COLUMNS} for run in finished])
    return runs.groupby("arm", sort=False).agg(["mean", "std"])


def save_table(target: str, finished: list[Finished], out: Path) -> str:
    """Writes table.csv and table.md (the same, for reading) to `out`; returns the latter."""
    out.mkdir(parents=True, exist_ok=True)
    made = table(finished)
    flat = made.copy()
    flat.columns = [f"{name}_{kind}" for name, kind in made.columns]
    write_text(out / "table.csv", flat.to_csv())
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(run.seed for run in finished))
    lines = [f"{target}: mean +- standard deviation over seeds {seeds}", ""]
    lines.append("| arm | " + " | ".join(COLUMNS.values()) + " |")
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for arm, row in made.iterrows():
        cells = [_cell(row[(name, "mean")], row[(name, "std")]) for name in COLUMNS]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    write_text(out / "table.md", text)
    return text


def _cell(mean: float, std: float) -> str:
    if mean != mean:
        return ""
    shown = f"{mean:,.0f}" if abs(mean) >= 1e4 else f"{mean:.3g}"
    return shown if std != std else f"{shown} +- {std:.2g}"
