"""Standard errors by the bootstrap, and floors: what a figure is between two finite samples of one distribution.

Frames are resampled, or the groups of them that are independent (runs of sequential Monte Carlo, ladders of a replica
exchange). A floor is the figure of as many independent frames of the reference as the samples are worth, held against
a bootstrap of the reference itself: what perfect samples would get.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from molsampler.basis.log_weights import check_weights, effective_frames

REPLICATES = 100  # a standard deviation of as many is known to 7 %
FLOORS = 30


class Compared(NamedTuple):
    """A figure of samples against a reference.

    stderr : bootstrap standard error, of samples and reference together
    floor : mean of the figure over pairs of finite samples of the reference;  floor_spread : its standard deviation
    """

    value: float
    stderr: float
    floor: float
    floor_spread: float

    def as_dict(self) -> dict[str, float]:
        return self._asdict()


@dataclass(frozen=True)
class Weighting:
    """One way to weigh the frames of a sample.

    suffix : of the names of figures: "" for reweighted samples, "_raw" for samples as they were drawn
    weights : (n,) normalised;  replicates : (B, n) normalised, bootstrapped;  effective : frames that they are worth
    groups : (n,) int, the independent part that each frame belongs to; None where all are independent
    """

    suffix: str
    weights: np.ndarray
    replicates: np.ndarray
    effective: float
    groups: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        suffix: str,
        weights: np.ndarray | None,
        n: int,
        generator: np.random.Generator,
        groups: np.ndarray | None = None,
        effective: float | None = None,
        replicates: int = REPLICATES,
    ) -> Weighting:
        """The bootstrap of weights (n,), None for equal ones; `groups` (n,) int where these are independent.

        `effective` is Kish's effective number of frames where left out.
        """
        w = check_weights(weights, n)
        return cls(
            suffix,
            w,
            resampled(w, generator, groups, replicates),
            effective_frames(w) if effective is None else effective,
            groups,
        )

    def stderr(self, values: np.ndarray) -> float:
        """Bootstrap standard error of the weighted mean of values (n,); values of zero weight may be anything."""
        values = np.where(self.weights > 0, values, 0.0)
        return float((self.replicates @ values).std(ddof=1))


def resampled(
    weights: np.ndarray, generator: np.random.Generator, groups: np.ndarray | None = None, replicates: int = REPLICATES
) -> np.ndarray:
    """(replicates, n) normalised weights of bootstrap samples of weights (n,), by frames or by groups (n,) int.

    A sample that caught no weight at all (of very uneven weights) is drawn again.
    """
    index = np.arange(len(weights)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(index.max()) + 1
    result = np.empty((replicates, len(weights)))
    for row in result:
        total = 0.0
        while not total > 0:
            counts = np.bincount(generator.integers(units, size=units), minlength=units)
            np.multiply(counts[index], weights, out=row)
            total = row.sum()
        row /= total
    return result


class Draw(NamedTuple):
    """Frames (indices) of the reference that stand for samples, and those that stand for the reference."""

    samples: np.ndarray
    reference: np.ndarray


def floor_draws(
    effective: float, blocks: np.ndarray, generator: np.random.Generator, count: int = FLOORS
) -> list[Draw]:
    """`count` pairs of: as many independent frames as `effective` says, and a bootstrap by blocks (m,) int."""
    members = [np.flatnonzero(blocks == k) for k in range(int(blocks.max()) + 1)]
    drawn = []
    for _ in range(count):
        chosen = generator.integers(len(members), size=len(members))
        drawn.append(
            Draw(
                generator.integers(len(blocks), size=max(1, round(effective))),
                np.concatenate([members[k] for k in chosen]),
            )
        )
    return drawn


def two_sample_draws(
    source: np.ndarray,
    blocks: np.ndarray | None,
    own: float,
    first: tuple[float, bool],
    second: tuple[float, bool],
    generator: np.random.Generator,
    count: int = FLOORS,
) -> list[Draw]:
    """`count` pairs of finite samples of one ensemble, frames of `source` weights (n,), for the floor between two.

    blocks : (n,) int, where frames of the source are correlated within blocks;  own : independent frames that it is
        worth
    first, second : what is drawn on either side, each how many independent frames it is worth, and whether it consists
        of whole blocks: such a sample has many more frames, which fill cells as those of a trajectory do
    """
    members = [] if blocks is None else [np.flatnonzero(blocks == k) for k in np.unique(blocks)]

    def drawn(effective: float, whole: bool) -> np.ndarray:
        if not (whole and members):
            return generator.choice(len(source), size=max(1, round(effective)), p=source)
        number = max(1, round(len(members) * min(effective / own, 20.0)))
        frames = np.concatenate([members[k] for k in generator.integers(len(members), size=number)])
        weights = source[frames]
        if np.ptp(weights) == 0:
            return frames
        weights = weights / weights.sum()
        return generator.choice(frames, size=max(1, round(effective_frames(weights))), p=weights)

    return [Draw(drawn(*first), drawn(*second)) for _ in range(count)]


class Measure(Protocol):
    """Figures of weighted samples against a weighted reference, prepared for many evaluations.

    names : of the figures
    replicates, floors : how many of the bootstrap samples and of the floor's pairs are used
    """

    names: tuple[str, ...]
    replicates: int
    floors: int

    def between(self, weights: np.ndarray, reference: np.ndarray, effective: float) -> list[float]:
        """The figures for weights (n,) of the samples, worth `effective` frames, and weights (m,) of the reference."""

    def drawn(self, draw: Draw, generator: np.random.Generator) -> list[float]:
        """The figures of one pair of finite samples of the reference."""


def compare(
    measure: Measure,
    weighting: Weighting,
    reference_replicates: np.ndarray,
    draws: list[Draw],
    generator: np.random.Generator,
    reference_weights: np.ndarray | None = None,
) -> dict[str, Compared]:
    """Every figure of a measure by name, with its error and its floor.

    reference_replicates : (B, m) bootstrapped weights of the reference, B as in the weighting
    reference_weights : (m,) of the reference itself; equal where left out
    """
    m = reference_replicates.shape[1]
    value = measure.between(weighting.weights, check_weights(reference_weights, m), weighting.effective)
    repeated = np.array(
        [
            measure.between(weighting.replicates[k], reference_replicates[k], weighting.effective)
            for k in range(min(measure.replicates, len(weighting.replicates)))
        ]
    )
    null = np.array([measure.drawn(draw, generator) for draw in draws[: measure.floors]])
    return {
        name: Compared(value[k], _spread(repeated[:, k]), float(null[:, k].mean()), _spread(null[:, k]))
        for k, name in enumerate(measure.names)
    }


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if np.isfinite(values).all() and len(values) > 1 else float("nan")
