"""Conformations per second, energy and forces, of every backend and batch size, side by side in one run.

    python scripts/benchmark_energy.py aldp ala2 paracetamol --batches 64 512 2048 --cores 1

Every line says how it compares with OpenMM's CPU platform at the same number of cores: OpenMM gets that many worker
processes of one thread, torch that many threads. The compile time of a size is shown once; a compiler cache that is
warm from an earlier run makes it shorter.

A table then tells what one evaluation costs a sampler, in us: the energy alone, the energy with forces, and log R with
its score, which is chart, energy, gradient and support. The three take turns, and the best of each counts; on one
thread of a CPU it is processor time, which other programs change little. `--skip chart` leaves it out, and with the
backends left out it is all that is measured:

    python scripts/benchmark_energy.py aldp hexa --cores 1 --skip openmm-cpu openmm-reference torch-eager torch-compiled
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import tyro

from molsampler.basis.compilation import CompiledOrEager
from molsampler.basis.errors import InputError
from molsampler.basis.ranks import usable_cores
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.energy.choice import check_device
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy, available_platforms
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.targets.molecule import MoleculeTarget

BASELINE = "openmm-cpu"
CHART = "chart"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    molecules: tyro.conf.Positional[tuple[str, ...]] = ("aldp",)  # names in systems/, folders or system.tomls
    batches: tuple[int, ...] = (64, 512, 2048)
    cores: int = field(default_factory=usable_cores)  # for every backend alike
    seconds: float = 2.0  # at least this long, and three batches, a measurement
    device: str = "cpu"  # for torch; on "cuda" OpenMM's CUDA platform is measured as well
    skip: tuple[str, ...] = ()  # backends to leave out; "chart" leaves out the table of chart and score


def backends(options: Options) -> dict[str, Callable[[Molecule], Energy]]:
    """The backends to measure, the baseline first."""
    there = {
        BASELINE: lambda m: OpenMMEnergy(m, "CPU", workers=options.cores),
        "openmm-reference": lambda m: OpenMMEnergy(m, "Reference", workers=options.cores),
        "torch-eager": lambda m: TorchEnergy(m, device=options.device, compile=False),
        "torch-compiled": lambda m: TorchEnergy(m, device=options.device),
    }
    if options.device != "cpu" and "CUDA" in available_platforms():
        there["openmm-cuda"] = lambda m: OpenMMEnergy(m, "CUDA")
    unknown = set(options.skip) - {*there, CHART}
    if unknown:
        raise InputError(f"cannot skip '{unknown.pop()}'; there are {', '.join(there)} and {CHART}")
    return {name: make for name, make in there.items() if name not in options.skip}


def perturbed(molecule: Molecule, count: int, device: str) -> torch.Tensor:
    """(count, N, 3) float32 nm: the input structure with 0.005 nm of noise."""
    noise = torch.randn(count, molecule.n_atoms, 3, generator=torch.Generator().manual_seed(0))
    return (torch.from_numpy(molecule.positions).float() + 0.005 * noise).to(device)


def rate(energy: Energy, positions: torch.Tensor, seconds: float) -> float:
    """Conformations per second: the best of the batches, so that other programs' load counts as little as it can."""
    best, done, begin = float("inf"), 0, time.perf_counter()
    while done < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        energy.energy_and_forces(positions)[1].sum().item()  # .item() waits for a GPU
        best = min(best, time.perf_counter() - start)
        done += 1
    return len(positions) / best


@contextmanager
def opened(make: Callable[[Molecule], Energy], molecule: Molecule) -> Iterator[Energy]:
    energy = make(molecule)
    try:
        yield energy
    finally:
        energy.close()


def main(options: Options) -> None:
    """Measure and print, molecule by molecule."""
    check_device(options.device)
    torch.set_num_threads(options.cores)
    for molecule in [load_molecule(name) for name in options.molecules]:
        if backends(options):
            measure(molecule, options)
        if CHART not in options.skip:
            measure_chart(molecule, options)


class EnergyAlone(TorchEnergy):
    """Energies without forces, by a kernel that no run needs: forces come with every energy there."""

    def __init__(self, molecule: Molecule, device: str) -> None:
        super().__init__(molecule, device=device)
        self._kernel = CompiledOrEager(lambda x: (self.potential(x), x))


def measure_chart(molecule: Molecule, options: Options) -> None:
    """One line a batch size: us an evaluation of energy, energy with forces, log R with its score; and their ratio."""
    chart = Chart(molecule, device=options.device)
    chart.fit(perturbed(molecule, 20 * chart.dim, "cpu").double())
    energy, alone = TorchEnergy(molecule, device=options.device), EnergyAlone(molecule, options.device)
    target = MoleculeTarget(molecule, chart, energy)
    one_thread = options.device == "cpu" and options.cores == 1
    clock, told = (time.process_time, "processor") if one_thread else (time.perf_counter, "wall-clock")
    print(f"{molecule.name}: us an evaluation, {told} time, {options.cores} core(s)")
    print("batch      energy  energy + forces  chart + energy + gradient  ratio to energy + forces", flush=True)
    for batch in options.batches:
        positions = perturbed(molecule, batch, options.device)
        z = chart.to_standard(positions)
        calls: list[Callable[[], torch.Tensor]] = [
            lambda x=positions: alone.energy(x),
            lambda x=positions: energy.energy_and_forces(x)[1],
            lambda z=z: target.log_prob_and_score(z)[1],
        ]
        one, forces, score = (1e6 * best / batch for best in best_in_turns(calls, options.seconds, clock))
        print(f"{batch:>5}  {one:>10.2f}  {forces:>15.2f}  {score:>25.2f}  {score / forces:>24.2f}", flush=True)


def best_in_turns(calls: list[Callable[[], torch.Tensor]], seconds: float, clock: Callable[[], float]) -> list[float]:
    """The least time in seconds that each call takes, the calls taking turns, after one round that compiles."""
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    rounds, begin = 0, time.perf_counter()
    while rounds < 5 or time.perf_counter() - begin < seconds * len(calls):
        for k, call in enumerate(calls):
            start = clock()
            call().sum().item()  # .item() waits for a GPU
            best[k] = min(best[k], clock() - start)
        rounds += 1
    return best


def measure(molecule: Molecule, options: Options) -> None:
    """One line a backend and batch size."""
    print(f"{molecule.name}: {molecule.n_atoms} atoms, energy and forces, {options.cores} core(s)", flush=True)
    baseline: dict[int, float] = {}
    for name, make in backends(options).items():
        with opened(make, molecule) as energy:
            for batch in options.batches:
                positions = perturbed(molecule, batch, options.device if name.startswith("torch") else "cpu")
                start = time.perf_counter()
                energy.energy_and_forces(positions)
                first = time.perf_counter() - start
                value = rate(energy, positions, options.seconds)
                if name == BASELINE:
                    baseline[batch] = value
                compared = f"{value / baseline[batch]:7.1f}x OpenMM CPU" if batch in baseline else ""
                compiled = f"  compile {first:.1f} s" if name == "torch-compiled" else ""
                print(f"{name:<17} batch {batch:>5}  {value:>10,.0f} conf/s  {compared}{compiled}", flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except InputError as error:
        raise SystemExit(f"benchmark_energy.py: {error}") from None
