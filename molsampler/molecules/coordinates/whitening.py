"""The linear standardisation after which a density on the line is nearest to a standard normal at fixed angles.

With y the line coordinates, s their score, and S the covariance of y at fixed angles, the Fisher divergence of the
density of M^(-1/2) y to N(0, I) is E|M^(1/2) s + M^(-1/2) y|^2 = tr(M E[s s^T]) + tr(M^(-1) S) - 2 dim, by partial
integration. Its least is at M E[s s^T] M = S: M is the geometric mean of S and of the inverse of E[s s^T] (Pusz and
Woronowicz, Rep. Math. Phys. 8, 159 (1975); Bhatia, Positive Definite Matrices (2007), chapter 4). For a Gaussian both
are the covariance. What moves with the angles is not noise to a sampler that has drawn them already, and is left to it.

Which angles are held while y moves is free as well: with angles t = t' + A y the score at fixed t' is s + A^T q, q the
torques grad log R by t, and E|s + A^T q|^2 is least for the regression of s on q. So a bond angle or an amide in the
middle of a chain need not carry its far end along against its contacts; the torsions beside it give way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.linalg import qr
from torch import Tensor

_HARMONICS = 3
_STATES_A_FEATURE = 20  # at least: the regression's own noise, which a count of features corrects, is then small
_RIDGE = 1e-3  # features are of order one, torques of order RT a radian
_OUTLIERS = 0.01  # share of the states, those with the largest forces, that does not count


class Normal(NamedTuple):
    """What to standardise d coordinates on the line and k angles by, float64.

    mean, covariance : (d,) and M (d, d)
    shear : A (k, d), of the angles
    information : E[s s^T] (d, d), the score s at fixed sheared angles
    """

    mean: Tensor
    covariance: Tensor
    shear: Tensor
    information: Tensor


def nearest_normal(line: Tensor, angles: Tensor, score: Tensor) -> Normal:
    """The normal nearest to a density, by states of it and their scores.

    line : (B, d) coordinates, of the order of their spread; angles : (B, k) radians; score : (B, d + k) grad log R by
        both
    """
    line, angles, score = line.double(), angles.double(), score.double()
    d = line.shape[1]
    size = score[:, :d].square().mean(1)
    kept = size <= torch.quantile(size, 1.0 - _OUTLIERS)
    line, angles, score, torque = line[kept], angles[kept], score[kept, :d], score[kept, d:]
    mean = line.mean(0)
    flat = _RIDGE * torch.eye(angles.shape[1], dtype=torque.dtype, device=torque.device)  # an axis that nothing turns
    shear = -torch.linalg.solve(torque.T @ torque / len(torque) + flat, torque.T @ score / len(score))
    within = _covariance_at_fixed(angles - (line - mean) @ shear.T, line)
    score = score + torque @ shear
    information = score.T @ score / len(score)
    return Normal(mean, geometric_mean(within, torch.linalg.inv(information)), shear, information)


def modes_last(information: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """An orthogonal Q (d, d) whose last `count` columns are the eigenvectors of the largest eigenvalues of E[s s^T]
    (d, d), standardised, the largest first, and the square roots (count,) of these; the other columns are as near to
    coordinate axes as they can be (Loewdin, J. Chem. Phys. 18, 365 (1950)), in the order of these.

    Where the density is standardised by its nearest normal, E[s s^T] and the covariance at fixed angles are the same
    matrix, 1 for a normal: along an eigenvector of a larger eigenvalue it is wider than standard, and thinner at every
    place.
    """
    d = len(information)
    values, vectors = torch.linalg.eigh(information)
    modes = vectors[:, d - count :].flip(1)
    taken = torch.from_numpy(qr(modes.T.numpy(), mode="r", pivoting=True)[1][:count]).long()  # axes that modes replace
    kept = torch.ones(d, dtype=torch.bool)
    kept[taken] = False
    beside = (torch.eye(d, dtype=modes.dtype) - modes @ modes.T)[:, kept]
    size, axes = torch.linalg.eigh(beside.T @ beside)
    rest = beside @ (axes / size.sqrt() @ axes.T)
    return torch.cat([rest, modes], 1), values[d - count :].flip(0).clamp_min(0.0).sqrt()


def geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """a # b = a^(1/2) (a^(-1/2) b a^(-1/2))^(1/2) a^(1/2) of positive definite matrices (d, d)."""
    values, vectors = torch.linalg.eigh(a)
    values = values.clamp_min(torch.finfo(a.dtype).tiny)
    root = vectors * values.sqrt() @ vectors.T
    inverse = vectors / values.sqrt() @ vectors.T
    values, vectors = torch.linalg.eigh(inverse @ b @ inverse)
    mean = root @ (vectors * values.clamp_min(0.0).sqrt() @ vectors.T) @ root
    return 0.5 * (mean + mean.T)


def _covariance_at_fixed(angles: Tensor, line: Tensor) -> Tensor:
    """Covariance (d, d) of line coordinates (B, d) about their mean at angles (B, k), a ridge regression on what
    `_features` gives."""
    features = _features(angles)
    n, p = features.shape
    gram = features.T @ features / n + _RIDGE * torch.eye(p, dtype=features.dtype, device=features.device)
    residual = line - features @ torch.linalg.solve(gram, features.T @ line / n)
    return residual.T @ residual / (n - p)


def _features(angles: Tensor) -> Tensor:
    """1, harmonics of every angle and products of two angles' first ones, (B, p): as many of these as the states can
    tell."""
    n, k = angles.shape
    features = [torch.ones_like(angles[:, :1])]
    if n >= _STATES_A_FEATURE * 2 * _HARMONICS * k:
        features += [f(m * angles) for m in range(1, _HARMONICS + 1) for f in (torch.sin, torch.cos)]
    if n >= _STATES_A_FEATURE * (2 * _HARMONICS * k + 2 * k * k):
        first = torch.cat([angles.sin(), angles.cos()], dim=1)
        i, j = torch.triu_indices(2 * k, 2 * k, 1, device=angles.device)
        features.append(first[:, i] * first[:, j])
    return torch.cat(features, dim=1)
