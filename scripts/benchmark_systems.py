"""How the sampler fares with a molecule's size, at equal training time: one table over the molecules in systems/.

    python scripts/benchmark_systems.py --minutes 10 --at-once 2

Every molecule is trained by `molsampler train` with one thread, in runs/sizes/NAME; a run that is there already is
not repeated, so that the script also prints the table of runs made one by one. Seconds an update are the run's own
clock divided by its updates, local moves included. (The ELBO is a mean, which a few stray trajectories can carry far
off on larger molecules; the median of log w is not.)
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from molsampler.basis.errors import InputError
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.loading.load import load_molecule

COLUMNS = (
    "system",
    "atoms",
    "dimensions",
    "soft",
    "ms a denoising update",
    "ms a balance update",
    "updates",
    "ESS",
    "log Z - median log w",
    "EUBO - log Z",
    "k-hat",
    "evaluations",
    "set-up",
)


def main(
    systems: tyro.conf.Positional[tuple[str, ...]] = (
        *("gly", "paracetamol", "aldp", "pro", "ala2", "phe", "cyclo_ala_gly", "cyclo_phe_pro", "ala3"),
    ),
    minutes: float = 10.0,
    samples: int = 10_000,
    seed: int = 0,
    at_once: int = 1,
    runs: Path = Path("runs/sizes"),
) -> None:
    """Train each molecule for the same time and print how it went.

    Args:
        systems: Names in systems/.
        minutes: Of training, each.
        samples: Drawn at the end of each.
        seed: Of everything random.
        at_once: Molecules trained side by side, one thread each.
        runs: Where the run directories are.
    """

    def train(name: str) -> str:
        if not (runs / name / "metrics.json").is_file():
            flags = {"minutes": minutes, "samples": samples, "seed": seed, "threads": 1, "out": runs / name}
            words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
            command = [sys.executable, "-m", "molsampler", "train", name, *words, "--quiet"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(f"training {name} failed with status {done.returncode}: {done.stderr.strip()}")
        return row(name, runs / name)

    print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n", flush=True)
    with ThreadPoolExecutor(at_once) as pool:
        for text in pool.map(train, systems):
            print(text, flush=True)


def row(name: str, run: Path) -> str:
    """The row of one finished run."""
    molecule = load_molecule(name)
    chart = Chart(molecule)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    train = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["train"]
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    warm = [r for r in rows if r["phase"] == "denoising"]
    first = (int(warm[-1]["update"]), float(warm[-1]["seconds"])) if warm else (0, 0.0)
    last = (int(rows[-1]["update"]), float(rows[-1]["seconds"]))
    log_z = metrics["log_z_estimate"]["value"]
    cells = [
        name,
        molecule.n_atoms,
        chart.dim,
        chart.n_soft,
        _ms(first[1], first[0]),
        _ms(last[1] - first[1], last[0] - first[0]),
        f"{train['warm_updates']:,} + {train['updates']:,}",
        f"{100 * metrics['ess']['value']:.2g} +- {100 * metrics['ess']['stderr']:.1g} %",
        f"{log_z - np.median(np.load(run / 'weights.npz')['log_weights']):.2f}",
        f"{metrics['eubo']['value'] - log_z:.2f}" if "eubo" in metrics else "",
        f"{metrics['pareto_k']['value']:.2f}",
        f"{metrics['evaluations']['value'] / 1e6:.1f} M",
        f"{metrics['seconds_setup']['value']:.0f} s",
    ]
    return line(cells)


def _ms(seconds: float, updates: int) -> str:
    return f"{1000 * seconds / updates:.0f}" if updates else ""


def line(cells: Sequence[Any]) -> str:
    """One row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        sys.exit(f"benchmark_systems: {error}")
