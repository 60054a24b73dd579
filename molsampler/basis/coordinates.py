"""The contract of coordinates: how states on a space stand for states in natural form, positions or plain vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from molsampler.basis.space import Space


class Coordinates(ABC):
    """A chart z on `space` of natural states x, standardised on states of a target so that a prior lies over them.

    z is (B, D); x is (B, ...), whatever the target calls its own: positions (B, N, 3) in nm of a molecule, vectors (B,
    D) of a density.
    """

    @property
    @abstractmethod
    def space(self) -> Space: ...

    @abstractmethod
    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) -> x (B, ...) and log |det dx/dz| (B,); differentiable, and finite off the support too."""

    def log_bend(self, z: Tensor) -> Tensor:
        """The part of log |det dx/dz| (B,) that differs between states which symmetries of x take for the same, up to a
        constant."""
        return torch.zeros_like(z[:, 0])

    @abstractmethod
    def to_standard(self, x: Tensor) -> Tensor:
        """x (B, ...) -> z (B, D), the inverse of `to_natural` on the support."""

    @abstractmethod
    def inside(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """z (B, D) -> (B,) bool, whether z lies where the chart is one to one; `x`, if given, is not computed again."""

    @abstractmethod
    def fit(self, x: Tensor, weights: Tensor | None = None) -> Self:
        """Standardise on natural states x (M, ...), with weights (M,) if given; returns self.

        Raises InputError for states that do not allow it.
        """

    @abstractmethod
    def standardise(self, mean: Tensor, covariance: Tensor) -> Self:
        """Standardise by a given mean and covariance of the coordinates on the line; returns self."""

    refines = False
    """Whether `refine` does anything."""

    def refine(self, z: Tensor, score: Tensor) -> Self:
        """Standardise anew by states z (M, D) on these coordinates and grad log R there (M, D), so that R is as near to
        the prior as a linear map of the line makes it, given what is not on the line; returns self."""
        return self

    @abstractmethod
    def state_dict(self) -> dict:
        """What was measured: tensors and plain Python."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave; InputError where it belongs to other coordinates."""
