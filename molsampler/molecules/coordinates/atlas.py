"""An atlas of a molecule in several pieces: one chart a piece, and a label that says which.

All charts share one Z-matrix and differ in their mean and covariance. A state is the chart's coordinates and the label
behind them; log |dx/dz| is that of the label's chart, and R is zero where the conformation does not lie in the label's
piece. Every conformation is then there once, and the integrals over the pieces add up to the one over all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.space import Coordinate, Space
from molsampler.molecules.coordinates.chart import Chart, Charted
from molsampler.molecules.coordinates.pieces import nearest, torsions_of
from molsampler.molecules.coordinates.rotors import Rotor

FRAMES, REFINED_FRAMES = 10, 100
"""States for every stiff coordinate that a piece's covariance is measured on, at least, in a second fit; and frames of
chains, ten of each, that it is refined by."""


class Atlas(Coordinates):
    """Coordinates z (B, dim): those of the label's chart, then the label, a whole number from 0.

    charts : K of them, of the same coordinates
    torsions, centres : (T, 4) int64 and (K, T) float64 radians, which piece is which (`coordinates.pieces.nearest`)
    """

    def __init__(self, chart: Chart, torsions: Tensor, centres: Tensor) -> None:
        """A chart for each centre, with the standardisation that `chart` has, if any."""
        self.torsions, self.centres = torsions.cpu(), centres.double().cpu()
        self.charts = [copy.copy(chart) for _ in centres]
        table = [*chart.space.table, Coordinate("piece", "label")]
        self._space = Space.of(chart.n_stiff, chart.n_soft, table, choices=len(centres))
        self.n_atoms, self.n_stiff, self.n_soft = chart.n_atoms, chart.n_stiff, chart.n_soft
        self.names, self.soft_atoms = chart.names, chart.soft_atoms
        self.dim, self.dtype, self.device = chart.dim + 1, chart.dtype, chart.device
        self.install()

    @property
    def space(self) -> Space:
        return self._space

    @property
    def condition_number(self) -> float:
        """The largest of the charts'."""
        return max(chart.condition_number for chart in self.charts)

    def piece(self, positions: Tensor) -> Tensor:
        """positions (B, N, 3) nm -> (B,) int64, the piece that each conformation lies in."""
        angles = torsions_of(positions, self.torsions.to(positions.device))
        return nearest(angles, self.centres.to(angles))

    # Standardisation

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Self:
        """Standardises each piece's chart on the frames x (M, N, 3) nm that lie in it, with weights (M,); returns self.

        A piece that has a standardisation keeps it where there are too few frames for a better one; the weights of
        samples do not depend on it. InputError for a piece that has none, and too few frames.
        """
        own = self.piece(x)
        for k, chart in enumerate(self.charts):
            rows = (own == k).nonzero()[:, 0]
            if chart.mean is None or len(rows) >= FRAMES * chart.n_stiff:
                chart.fit(x[rows], None if weights is None else weights[rows.to(weights.device)])
        return self.install()

    refines = True

    def refine(self, z: Tensor, score: Tensor) -> Self:
        """Each piece's chart by the states z (M, dim) in it and grad log R there (`Chart.refine`); one with too few of
        them, which come from chains and are not independent, stays as it is. Returns self."""
        for chart, rows in self._by_piece(z[:, -1]):
            if len(rows) >= REFINED_FRAMES * chart.n_stiff:
                chart.refine(z[rows, :-1], score[rows, :-1])
        return self.install()

    def standardise(self, mean: Tensor, covariance: Tensor) -> Self:
        """Every chart by the same mean and covariance; returns self."""
        for chart in self.charts:
            chart.standardise(mean, covariance)
        return self.install()

    def install(self) -> Self:
        """Takes over how the charts are standardised now; returns self.

        Their affine maps go beside each other: one product with the states spread over the pieces does all.
        """
        if any(chart.mean is None for chart in self.charts):
            return self
        linear, offset, log_scale = zip(*(chart.affine for chart in self.charts), strict=True)
        self._linear = torch.cat([*linear, *offset], 1)  # (3 N, K (dim - 1) + K)
        self._log_scale = torch.tensor(log_scale, dtype=self._linear.dtype, device=self._linear.device)
        return self

    # The map

    def place_batch_last(self, z: Tensor) -> Charted:
        """z (dim, B) -> Charted: atoms in a fixed frame and log |dx/dz|, all with the batch as the last axis."""
        self.charts[0].require_fit()
        choices = torch.arange(len(self.charts), device=z.device)[:, None]
        taken = (z[-1] == choices).to(z)  # (K, B)
        spread = (taken[:, None] * z[:-1]).flatten(0, 1)  # (K, dim - 1, B) -> (K (dim - 1), B)
        charted = self.charts[0].place_rows(self._linear @ torch.cat([spread, taken]), self._log_scale @ taken)
        return charted._replace(taken=taken)

    def pull_back(self, charted: Charted, gradient: Tensor) -> Tensor:
        """As `Chart.pull_back`, (dim, B); zero for the label."""
        assert charted.taken is not None
        k, by_rows = len(self.charts), self.charts[0].pull_back_to_rows(charted, gradient)
        by_piece = (self._linear[:, :-k].T @ by_rows).unflatten(0, (k, -1))  # (K, dim - 1, B)
        own = (charted.taken[:, None] * by_piece).sum(0)
        return torch.cat([own, torch.zeros_like(own[:1])])

    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `Chart.to_natural`, each state by its label's chart."""
        charted = self.place_batch_last(z.T)
        return charted.placed.positions.permute(2, 1, 0), charted.log_det

    @property
    def rotors(self) -> list[Rotor]:
        """The same for every chart."""
        return self.charts[0].rotors

    def turn_rotors(
        self, z: Tensor, score: Tensor, rotors: Sequence[Rotor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """As `Chart.turn_rotors`, each state (B, dim) by its label's chart, in which it stays."""
        turned, by_turned = z.clone(), score.clone()
        for chart, rows in self._by_piece(z[:, -1]):
            own = chart.turn_rotors(z[rows, :-1], score[rows, :-1], rotors, generator)
            turned[rows, :-1], by_turned[rows, :-1] = own
        return turned, by_turned

    def to_standard(self, x: Tensor) -> Tensor:
        """positions x (B, N, 3) nm in any frame -> z (B, dim), the label by the piece they lie in."""
        label = self.piece(x)
        z = x.new_zeros(len(x), self.dim)
        for chart, rows in self._by_piece(label):
            z[rows, :-1] = chart.to_standard(x[rows]).to(z)
        z[:, -1] = label.to(z)
        return z

    def inside(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """z (B, dim) -> (B,) bool: on the support of the label's chart, and in the label's piece."""
        if x is None:
            x = self.to_natural(z)[0]
        found = self.piece(x) == z[:, -1]
        for chart, rows in self._by_piece(z[:, -1]):
            found[rows] &= chart.inside(z[rows, :-1], x[rows])
        return found

    def _by_piece(self, label: Tensor) -> Iterator[tuple[Chart, Tensor]]:
        """Each chart with the rows (B_k,) of the states whose label (B,) it is."""
        for k, chart in enumerate(self.charts):
            rows = (label == k).nonzero()[:, 0]
            if len(rows):
                yield chart, rows

    # Keeping

    def state_dict(self) -> dict:
        """The charts' measurements, and which piece is which: tensors and plain Python only."""
        return {
            "charts": [chart.state_dict() for chart in self.charts],
            "torsions": self.torsions,
            "centres": self.centres,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave; raises InputError where it belongs to other coordinates."""
        if "charts" not in state or len(state["charts"]) != len(self.charts):
            raise InputError(f"the stored coordinates are not those of {len(self.charts)} pieces")
        if not torch.equal(state["torsions"], self.torsions):
            raise InputError("the stored pieces are told apart by other torsions: they are another molecule's")
        self.centres = state["centres"]
        for chart, own in zip(self.charts, state["charts"], strict=True):
            chart.load_state_dict(own)
        self.install()
