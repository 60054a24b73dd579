"""Arms and seeds of one target in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molsampler.analysis.pictures.synthetic import ArmMetric, Mark, draw_arms, draw_curves
from molsampler.store.atomic import write_text
from molsampler.store.run_directory import RunDirectory

COLUMNS = {
    "ess": "ESS",
    "eubo_gap": "EUBO - log Z",
    "elbo_gap": "log Z - ELBO",
    "log_z_error": "error of IW log Z",
    "w2_squared": "W2^2",
    "w2_squared_reweighted": "W2^2 reweighted",
    "w2_squared_floor": "W2^2 floor",
    "modes_found": "modes",
    "smc_ess": "ESS of SMC",
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
    # a seed whose figure is infinite or missing must not make the mean look better
    return runs.groupby("arm", sort=False).agg([_mean, _std]).rename(columns={"_mean": "mean", "_std": "std"}, level=1)


def _mean(values: pd.Series) -> float:
    return values.mean(skipna=False)


def _std(values: pd.Series) -> float:
    return values.std(skipna=False)


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


def draw(target: str, finished: list[Finished], out: Path) -> None:
    """arms.png, the table as a picture, and curves.png, EUBO against evaluations of every learning arm."""
    made = table(finished)
    arms = {
        arm: {name: (float(row[(name, "mean")]), float(row[(name, "std")])) for name in COLUMNS}
        for arm, row in made.iterrows()
    }
    value, std = (float(np.mean([run.value(f"w2_squared_floor{kind}") for run in finished])) for kind in ("", "_std"))
    floor = Mark("floor", value, std)
    panels = [
        ArmMetric("ess", "ESS"),
        ArmMetric("eubo_gap", COLUMNS["eubo_gap"], log=True),
        ArmMetric("elbo_gap", COLUMNS["elbo_gap"], log=True),
        ArmMetric("w2_squared", "squared W2", floor, log=True),
    ]
    known = [panel for panel in panels if any(np.isfinite(arm[panel.name][0]) for arm in arms.values())]
    draw_arms(out / "arms.png", arms, known)
    curves: dict[str, list[dict[str, np.ndarray]]] = {}
    for run in finished:
        columns = RunDirectory(run.folder).metrics_columns()
        if "eubo" in columns:
            truth = run.value("log_z_true")
            if "eubo_gap" not in columns:  # where there are conditions a row has it: it is of some of them only
                columns["eubo_gap"] = columns["eubo"] - (truth if np.isfinite(truth) else 0.0)
            curves.setdefault(run.arm, []).append(columns)
    if curves:
        known_z = np.isfinite(finished[0].value("log_z_true"))
        label = f"{target}: EUBO" + (" - log Z" if known_z else "")
        draw_curves(out / "curves.png", curves, "eubo_gap", label=label, log=bool(known_z))


def _cell(mean: float, std: float) -> str:
    if mean != mean:
        return ""
    shown = f"{mean:,.0f}" if abs(mean) >= 1e4 else f"{mean:.3g}"
    return shown if std != std else f"{shown} +- {std:.2g}"
