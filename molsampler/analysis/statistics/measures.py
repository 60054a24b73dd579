"""What samples and reference are compared by, prepared so that a bootstrap can evaluate it a hundred times.

Histograms of torsions and of Ramachandran maps, transport on the torus, and transport on the line (energies,
interatomic distances). Each class fulfils `bootstrap.Measure`.

Floors of histograms are drawn from a smoothed reference: without smoothing, two samples of it could only ever meet in
the cells that it happens to have visited, and the floor of a fine grid would come out up to twofold too low.
"""

from __future__ import annotations

import numpy as np

from molsampler.analysis.statistics.bootstrap import FLOORS, REPLICATES, Draw
from molsampler.analysis.statistics.cells import flat_cells
from molsampler.analysis.statistics.divergences import jensen_shannon, kl, line_wasserstein, map_w2, total_variation
from molsampler.analysis.statistics.divergences import with_half_a_frame as padded

SMOOTHING = np.deg2rad(4.0)  # standard deviation of the noise on angles drawn for a floor


class Histograms:
    """kl (reference to samples), jsd and tv between histograms on the circle or the torus.

    angles (n, d) and reference (m, d), radians; `bins` along each of the d axes
    names : of the figures wanted, each a name and one of "kl", "jsd", "tv"
    source : angles (l, d) of what floors are drawn from; the reference where left out
    """

    def __init__(
        self,
        angles: np.ndarray,
        reference: np.ndarray,
        bins: int,
        names: dict[str, str],
        source: np.ndarray | None = None,
    ) -> None:
        self.reference = reference if source is None else source
        self.bins, self.size = bins, bins ** angles.shape[1]
        self._cells, self._reference_cells = flat_cells(angles, bins), flat_cells(reference, bins)
        self.names, self._kinds = tuple(names), tuple(names.values())
        self.replicates, self.floors = REPLICATES, FLOORS

    def between(self, weights: np.ndarray, reference: np.ndarray, effective: float) -> list[float]:
        q = np.bincount(self._cells, weights=weights, minlength=self.size)
        p = np.bincount(self._reference_cells, weights=reference, minlength=self.size)
        return self._figures(p, q, effective)

    def drawn(self, draw: Draw, generator: np.random.Generator) -> list[float]:
        q, p = (self._smoothed(index, generator) for index in draw)
        return self._figures(p, q, len(draw.samples))

    def _smoothed(self, index: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Histogram (size,) of frames `index` of the reference with noise on their angles."""
        angles = self.reference[index]
        cells = flat_cells(angles + SMOOTHING * generator.standard_normal(angles.shape), self.bins)
        return np.bincount(cells, minlength=self.size) / len(index)

    def _figures(self, p: np.ndarray, q: np.ndarray, frames: float) -> list[float]:
        known = {"kl": lambda: kl(p, padded(q, frames)), "jsd": lambda: jensen_shannon(p, q)}
        known["tv"] = lambda: total_variation(p, q)
        return [known[kind]() for kind in self._kinds]


class TorusTransport(Histograms):
    """2-Wasserstein distance (radians) of two Ramachandran maps, exactly (POT) between cells of 360 / `bins` degrees.

    A transport plan costs a thousand times what a histogram does: 20 bootstrap samples, 10 pairs for the floor.
    """

    def __init__(self, angles: np.ndarray, reference: np.ndarray, bins: int, name: str) -> None:
        super().__init__(angles, reference, bins, {name: "w2"})
        self.replicates, self.floors = 20, 10

    def _figures(self, p: np.ndarray, q: np.ndarray, frames: float) -> list[float]:
        return [map_w2(q.reshape(self.bins, self.bins), p.reshape(self.bins, self.bins))]


class Lines:
    """Wasserstein distances, in their unit, of values (n,) to the reference's (m,); by name the order, 1 or 2.

    Values of the reference are finite; values of samples of positive weight must be, or the distance is infinite.
    """

    def __init__(self, values: np.ndarray, reference: np.ndarray, names: dict[str, int]) -> None:
        self.values, self.reference = values, reference
        self.names, self._orders = tuple(names), tuple(names.values())
        self.replicates, self.floors = REPLICATES, FLOORS

    def between(self, weights: np.ndarray, reference: np.ndarray, effective: float) -> list[float]:
        if not np.isfinite(self.values[weights > 0]).all():
            return [float("inf")] * len(self._orders)
        return [line_wasserstein(self.values, weights, self.reference, reference, order) for order in self._orders]

    def drawn(self, draw: Draw, generator: np.random.Generator) -> list[float]:
        a, b = self.reference[draw.samples], self.reference[draw.reference]
        return [line_wasserstein(a, None, b, None, order) for order in self._orders]


class Distances:
    """1-Wasserstein distances of k interatomic distances, values (n, k) and reference (m, k): their mean, the largest.

    W1 on the line is the area between the two cumulative distributions; both are sorted together once.
    """

    def __init__(self, values: np.ndarray, reference: np.ndarray, mean: str, largest: str) -> None:
        self.reference = reference
        self.names = (mean, largest)
        self.replicates, self.floors = REPLICATES, FLOORS
        both = np.concatenate([values, reference])
        self._order = np.argsort(both, axis=0)  # (n + m, k)
        self._gaps = np.diff(np.take_along_axis(both, self._order, 0), axis=0)  # (n + m - 1, k)

    def each(self, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """(k,) W1 of every distance for weights (n,) and (m,)."""
        signed = np.concatenate([weights, -reference])
        return np.array(
            [np.abs(np.cumsum(signed[o])[:-1]) @ g for o, g in zip(self._order.T, self._gaps.T, strict=True)]
        )

    def between(self, weights: np.ndarray, reference: np.ndarray, effective: float) -> list[float]:
        return self._summary(self.each(weights, reference))

    def drawn(self, draw: Draw, generator: np.random.Generator) -> list[float]:
        a, b = (np.sort(self.reference[index], axis=0) for index in draw)
        return self._summary(np.array([_sorted_w1(x, y) for x, y in zip(a.T, b.T, strict=True)]))

    @staticmethod
    def _summary(each: np.ndarray) -> list[float]:
        return [float(each.mean()), float(each.max())]


def _sorted_w1(a: np.ndarray, b: np.ndarray) -> float:
    """W1 of two sets of equally weighted, sorted values."""
    both = np.concatenate([a, b])
    both.sort(kind="stable")
    below = np.searchsorted(a, both[:-1], "right") / len(a) - np.searchsorted(b, both[:-1], "right") / len(b)
    return float(np.abs(below) @ np.diff(both))
