"""How long the analysis of alanine dipeptide takes, and how much memory: python scripts/benchmark_analysis.py

Frames are the stored reference's, drawn at random with noise on their weights; each size runs in a process of its own,
with everything that `molsampler analyse` does but reading the molecule.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.reference_ensemble import load_reference
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.load import load_molecule
from molsampler.store.run_directory import RunDirectory


def measure(n: int) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and the process's largest memory in GB."""
    molecule = load_molecule("aldp")
    reference = load_reference(find_system_folder("aldp") / "reference")
    rng = np.random.default_rng(0)
    chosen = rng.integers(reference.trajectory.n_frames, size=n)
    log_weights = 0.6 * rng.normal(size=n)
    subject = Subject("aldp", molecule.temperature, molecule.positions, Chart(molecule).soft_atoms.tolist())
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        frames, energy = reference.trajectory.xyz[chosen], reference.potential_energy[chosen]
        run.write_samples(frames, reference.trajectory.topology, log_weights, energy, log_weights)
        begun, begun_cpu = time.perf_counter(), time.process_time()
        analyse(run, subject, reference)
        seconds, processor = time.perf_counter() - begun, time.process_time() - begun_cpu
    unit = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss is in bytes there, in kilobytes elsewhere
    return seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(sizes: tuple[int, ...] = (10_000, 100_000)) -> None:
    """Measure the analysis of each number of frames.

    Args:
        sizes: Numbers of frames.
    """
    context = multiprocessing.get_context("spawn")
    for n in sizes:
        with context.Pool(1) as pool:
            seconds, processor, memory = pool.apply(measure, (n,))
        print(f"{n:>9,} frames: {seconds:.1f} s ({processor:.1f} s of processor), {memory:.2f} GB", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
