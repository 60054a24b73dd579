"""What all temperatures of a replica exchange say about the coldest: the multistate Bennett acceptance ratio.

Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008). A basin that is rare at the coldest temperature is common at the
hot ones, whose states carry most of the information on its population.
"""

from __future__ import annotations

import numpy as np

from molsampler.basis.units import thermal_energy

_SWEEPS = 20  # of self-consistent iteration, before Newton's method
_STEPS = 100  # of Newton's method at most
_TOLERANCE = 1e-8  # of reduced free energies


def solve_mbar(reduced: np.ndarray, counts: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Reduced free energies (T,), the first one 0, that make MBAR's equations hold.

    reduced : (n, T), every state's energy over RT at every temperature;  counts : (T,), states drawn at each of them
    start : (T,), where to start from; by default some sweeps of self-consistent iteration from zero
    Newton's method on the convex objective. Raises ArithmeticError if it does not converge, as where neighbours do not
    overlap.
    """
    counts = np.asarray(counts, dtype=np.float64)
    free = _swept(reduced, counts) if start is None else start
    for _ in range(_STEPS):
        share = _shares(reduced, counts, free)  # (n, T)
        total = share.sum(0)
        hessian = np.diag(total) - share.T @ share
        change = np.zeros_like(free)
        change[1:] = np.linalg.solve(hessian[1:, 1:], (counts - total)[1:])
        free = free + np.clip(change, -1.0, 1.0)
        if np.abs(change).max() < _TOLERANCE:
            return free
    raise ArithmeticError(f"MBAR did not converge in {_STEPS} steps: neighbouring temperatures overlap too little")


def coldest_weights(reduced: np.ndarray, counts: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(n,) weights, summing to 1, of all states (drawn at whichever temperature) in the ensemble of the first one.

    reduced (n, T) and counts (T,) as for `solve_mbar`;  free : (T,), its solution
    """
    share = _shares(reduced, np.asarray(counts, dtype=np.float64), free)[:, 0]
    return share / share.sum()


def jackknife_covariance(without: np.ndarray) -> np.ndarray:
    """(k, k) covariance of estimates whose values without each of L independent parts are (L, k)."""
    deviation = without - without.mean(0)
    return (len(without) - 1) / len(without) * deviation.T @ deviation


def coldest_means(
    values: np.ndarray, energies: np.ndarray, inside: np.ndarray, temperatures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means (k,) at the coldest temperature from the states at all, and their jackknife covariance (k, k) over ladders.

    values : (R, L, T, k), k quantities of R rounds, L >= 2 ladders, T temperatures, such as the indicators of basins
    energies : (R, L, T) kJ/mol;  inside : (R, L, T) bool, states outside the support are left out of everything
    temperatures : (T,) K

    The free energies are solved for anew without each ladder, so that their uncertainty is part of the error.
    """
    ladders = energies.shape[1]
    if ladders < 2:
        raise ValueError("an error needs at least two independent ladders")
    mean, free = _mean(values, energies, inside, temperatures, None)
    without = np.empty((ladders, values.shape[-1]))
    for k in range(ladders):
        kept = np.delete(np.arange(ladders), k)
        without[k] = _mean(values[:, kept], energies[:, kept], inside[:, kept], temperatures, free)[0]
    return mean, jackknife_covariance(without)


def _mean(
    values: np.ndarray, energies: np.ndarray, inside: np.ndarray, temperatures: np.ndarray, start: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The means (k,) and the free energies (T,)."""
    reduced = energies[inside][:, None] / thermal_energy(np.asarray(temperatures))  # (n, T)
    counts = inside.sum((0, 1))
    free = solve_mbar(reduced, counts, start)
    return coldest_weights(reduced, counts, free) @ values[inside].astype(np.float64), free


def _shares(reduced: np.ndarray, counts: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(n, T) N_t exp(f_t - u_t) / sum over t: how much each temperature contributes to the density at each state."""
    logits = np.log(counts) + free - reduced
    logits -= logits.max(1, keepdims=True)
    share = np.exp(logits)
    return share / share.sum(1, keepdims=True)


def _swept(reduced: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(T,) free energies close enough for Newton's method."""
    free = np.zeros(len(counts))
    for _ in range(_SWEEPS):
        free = free - np.log(_shares(reduced, counts, free).sum(0) / counts)
        free = free - free[0]
    return free
