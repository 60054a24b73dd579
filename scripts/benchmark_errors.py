"""Whether stated errors hold: repeats sampling from a fixed policy, and counts how often the one-sigma interval of a
figure holds the truth. 68 % would be ideal.

    python scripts/benchmark_errors.py                 # weighted populations with known truth, and a trained policy
    python scripts/benchmark_errors.py --repeats 1000

A weighted population has log-normal weights and a state whose effective count is chosen. The trained policy is a small
one on two wells of unequal weight, whose populations and log Z are known; its true ESS is that of half a million draws.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from molsampler.analysis.observables.basins import weighted_basins
from molsampler.analysis.observables.ramachandran import Basins
from molsampler.analysis.statistics.bootstrap import Weighting
from molsampler.analysis.statistics.estimates import ess_fraction, ess_interval, log_z_estimate
from molsampler.basis.log_weights import normalised
from molsampler.basis.settings import change
from molsampler.basis.units import thermal_energy
from molsampler.preparation.start import prepare
from molsampler.targets.charted import Charted, first_coordinates
from molsampler.targets.density import Density
from molsampler.training.config import TrainConfig
from molsampler.training.trainer import Trainer

SIGMAS, COUNTS, SAMPLES = (0.5, 1.0), (5, 10, 20, 50, 200), 3000
RARE, APART, LOG_Z = 0.02, 3.0, 1.7  # of the trained policy's target: weight of the second well, its place, log Z
HALVES = Basins(np.repeat([0, 1], 36), ("common", "rare"), np.array([[-1.5], [1.5]]))
"""The two states of a population, as wells of a torsion: the rare one at positive angles."""
CONFIG = change(
    TrainConfig(),
    warm_updates=300,
    updates=600,
    precision="float32",
    compile=False,
    schedule={"n_steps": 4},
    policy={"width": 16, "depth": 2},
    twist={"width": 16, "depth": 2},
    smc={"chunk": 2},
    anneal={"particles": 1024, "moves": 4, "last_moves": 10},
    batch={"denoising": 1024, "balance": 64},
    replay={"capacity": 5000},
    passes={"particles": 64},
    moves={"every": 0},
)


def figures(log_w: np.ndarray, rare: np.ndarray, truth: dict[str, float], seed: int) -> Iterator[tuple[str, bool]]:
    """Whether the interval of each figure holds the truth, for log-weights (n,) and which samples are `rare` (n,)."""
    weights = normalised(log_w)
    weighting = Weighting.of("", weights, len(log_w), np.random.default_rng(seed))
    angles = np.where(rare, 1.5, -1.5)[:, None]
    found = weighted_basins("", HALVES, angles, weighting, 300.0, "common")
    low, high = found.span("rare")
    yield "population", low <= truth["population"] <= high
    value, error = found.free_energies["rare"]
    low, high = found.free_spans.get("rare", (value - error, value + error))
    free = -thermal_energy(300.0) * np.log(truth["population"] / (1 - truth["population"]))
    yield "free energy", low <= free <= high
    log_z = log_z_estimate(log_w)
    yield "log Z", abs(log_z.value - truth["log_z"]) <= log_z.stderr
    low, high = ess_interval(log_w)
    yield "ESS", low <= truth["ess"] <= high


def row(name: str, held: dict[str, list[bool]], wanted: tuple[str, ...]) -> None:
    shares = "".join(f"{100 * np.mean(held[f]):11.1f} %" if f in wanted else " " * 13 for f in COLUMNS)
    print(f"{name:44s}{shares}", flush=True)


COLUMNS = ("population", "free energy", "log Z", "ESS")


def populations(repeats: int) -> None:
    """States of chosen effective counts, and samples of chosen effective size."""
    rng = np.random.default_rng(0)
    for sigma in SIGMAS:
        for count in COUNTS:
            spread = np.exp(sigma**2)
            rare = count * spread / SAMPLES
            truth = {"population": rare, "log_z": 0.0, "ess": 1 / spread}
            held, whole = defaultdict(list), defaultdict(list)
            for k in range(repeats):
                for name, inside in figures(_log_normal(rng, SAMPLES, sigma), rng.random(SAMPLES) < rare, truth, k):
                    held[name].append(inside)
                n = round(count * spread)
                log_w = _log_normal(rng, n, sigma)
                for name, inside in figures(log_w, rng.random(n) < 0.5, {**truth, "population": 0.5}, k):
                    whole[name].append(inside)
            row(f"log-normal, sigma {sigma}: a state of {count} counts", held, COLUMNS[:2])
            row(f"log-normal, sigma {sigma}: {count} effective samples", whole, COLUMNS[2:])


def _log_normal(rng: np.random.Generator, n: int, sigma: float) -> np.ndarray:
    return -(sigma**2) / 2 + sigma * rng.normal(size=n)


def trained(repeats: int) -> None:
    """A small policy on two wells; samples of several sizes, so that the rare well has few counts or many."""
    base = Density(_two_wells, 2, extent=3.0)
    target = Charted(base, first_coordinates(base.centre, base.extent))
    generator = torch.Generator().manual_seed(0)
    trainer = Trainer(target, CONFIG, generator, say=lambda text: None)
    trainer.begin(prepare(target, CONFIG.anneal, generator))
    while trainer.done < trainer.total:
        trainer.update()
    sampler = trainer.sampler()
    large = sampler.draw(500_000, generator)
    rare = (target.coordinates.to_natural(large.x)[0][:, 0] > 0).numpy()
    weights = normalised(large.log_w.numpy())
    # what one sample is worth in effective counts of the rare well: its weights are as uneven as the policy made them
    each = weights[rare].sum() ** 2 / np.square(weights[rare]).sum() / len(weights)
    beyond = float(torch.special.ndtr(torch.tensor(-APART)))  # of a well, on the other side of 0
    population = RARE * (1 - beyond) + (1 - RARE) * beyond
    truth = {"population": population, "log_z": LOG_Z, "ess": ess_fraction(large.log_w.numpy()).value}
    for count in (5, 10, 20, 50, 200):
        n = round(count / each)
        held: dict[str, list[bool]] = defaultdict(list)
        for k in range(repeats):
            drawn = sampler.draw(n, generator)
            rare = target.coordinates.to_natural(drawn.x)[0][:, 0] > 0
            for name, inside in figures(drawn.log_w.numpy(), rare.numpy(), truth, k):
                held[name].append(inside)
        row(f"trained, ESS {truth['ess']:.0%}: {n:,} samples, {count} rare counts", held, COLUMNS)


def _two_wells(x: torch.Tensor) -> torch.Tensor:
    """Unit-width wells at -APART and +APART of the first coordinate, the second of weight RARE."""
    places = torch.tensor([[-APART, 0.0], [APART, 0.0]], dtype=x.dtype)
    logs = torch.tensor([np.log(1 - RARE), np.log(RARE)], dtype=x.dtype)
    square = (x[:, None] - places).square().sum(-1)
    return torch.logsumexp(logs - square / 2, 1) - np.log(2 * np.pi) + LOG_Z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300, help="of each row, at least 100")
    arguments = parser.parse_args()
    if arguments.repeats < 100:
        parser.error(f"--repeats {arguments.repeats} says little: give at least 100")
    error = 100 * np.sqrt(0.68 * 0.32 / arguments.repeats)
    print(f"{f'inside one sigma, +- {error:.1f} %':44s}" + "".join(f"{name:>13s}" for name in COLUMNS))
    populations(arguments.repeats)
    trained(arguments.repeats)


if __name__ == "__main__":
    main()
