"""Posteriors of Bayesian logistic regression: one mode, correlated, skewed where the data leave a weight open.

The literature on samplers takes data sets of the UCI repository (Ionosphere, Sonar, German credit, breast cancer); here
two that scikit-learn ships: breast cancer in Wisconsin (W. Wolberg, W. Street and O. Mangasarian, UCI, 1993, CC BY 4.0;
benign or malignant, 569 cases, 30 features) and handwritten digits (E. Alpaydin and C. Kaynak, UCI, 1998, CC BY 4.0;
odd or even, 1,797 images, the 54 pixels that ten images light). They are data of this package: `python
scripts/make_logistic.py` makes data/logistic.npz anew.
"""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.space import LOG_2PI
from molsampler.targets.proposal import StudentProposal, by_rejection
from molsampler.targets.synthetic_target import SyntheticTarget

DATA = files("molsampler.targets") / "data" / "logistic.npz"
LOG_Z = {"cancer": (-55.2211, 0.0011), "digits": (-412.1184, 0.0015)}
"""With standard errors: `shipped(name).estimate_log_z(torch.Generator().manual_seed(1), 1_000_000)`."""
CAP = 32.0  # times the mean weight
_DEGREES = 40  # of freedom, of the proposal
_PILOT, _PILOT_ROUNDS, _PILOT_ESS = 8192, 6, 0.3
_NEWTON_STEPS = 50
_BLOCK = 2048  # states whose logits fit into a processor's cache


class LogisticRegression(SyntheticTarget):
    """log R(w) = log N(w; 0, I) + sum_i log p(label_i | w), of weights w (D,): one a feature, the constant's last.

    p(1 | w) = sigmoid(w . (features, 1)), features at mean 0 and standard deviation 1 over the cases. The prior is the
    one that the literature has for Ionosphere and Sonar; log Z is the log evidence of the labels.

    features : (M, D - 1), none of them constant; labels : (M,) of 0 and 1
    """

    def __init__(self, name: str, features: Tensor, labels: Tensor) -> None:
        features = features.double()
        if features.ndim != 2 or labels.shape != features.shape[:1] or bool(((labels != 0) & (labels != 1)).any()):
            raise InputError(
                f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; give (M, D - 1) "
                "numbers and (M,) labels, each 0 or 1"
            )
        spread = features.std(0, correction=0)
        if not bool((spread > 0.0).all()):
            raise InputError(f"feature {int(spread.argmin())} is the same in all {len(features)} cases: leave it out")
        super().__init__(name, torch.zeros(features.shape[1] + 1), 1.0, limits=(-3.0, 3.0))
        standard = torch.cat([(features - features.mean(0)) / spread, torch.ones(len(features), 1)], 1)
        self.signed = torch.where(labels[:, None] == 1, standard, -standard)

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of w (B, D)."""
        log_likelihood = -F.softplus(-x @ self.signed.to(x).T).sum(-1)
        return log_likelihood - 0.5 * x.square().sum(-1) - 0.5 * self.space.dim * LOG_2PI

    @cached_property
    def mode(self) -> tuple[Tensor, Tensor]:
        """The largest density's w (D,) and the negative Hessian there (D, D), float64, by Newton's steps, halved until
        they rise: log R is concave."""
        w = torch.zeros(self.space.dim, dtype=torch.float64)
        for _ in range(_NEWTON_STEPS):
            wrong = torch.sigmoid(-self.signed @ w)
            hessian = self.signed.T @ (self.signed * (wrong * (1.0 - wrong))[:, None]) + torch.eye(len(w))
            gradient = self.signed.T @ wrong - w
            step = torch.linalg.solve(hessian, gradient)
            if float(gradient @ step) < 1e-18:
                break
            while bool(self.log_prob((w + step)[None]) < self.log_prob(w[None])) and float(step.norm()) > 1e-12:
                step = 0.5 * step
            w = w + step
        return w, hessian

    @cached_property
    def proposal(self) -> tuple[StudentProposal, float]:
        """A Student-t that is fitted to the posterior, from its mode on, and the log of the mean weight."""
        mode, hessian = self.mode
        found = StudentProposal(mode, torch.linalg.cholesky(torch.linalg.inv(hessian)), _DEGREES)
        generator = torch.Generator().manual_seed(0)  # the fit moves the ESS, never the measure
        for _ in range(_PILOT_ROUNDS):
            x = found.draw(generator, _PILOT)
            weights = LogWeights(self._log_weights(found, x))
            # a skewed posterior leaves the first fits a handful of draws; tempered weights still see all of them
            found = found.fitted(x, weights.tempered(_PILOT_ESS))
        return found, weights.log_mean

    def weighted(self, generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """(n, D) float64 draws of the proposal and their log-weights (n,): the mean weight estimates Z without bias."""
        found, _ = self.proposal
        x = found.draw(generator, n)
        return x, self._log_weights(found, x)

    def _log_weights(self, proposal: StudentProposal, x: Tensor) -> Tensor:
        return torch.cat([self.log_prob(part) for part in x.split(_BLOCK)]) - proposal.log_density(x)

    def estimate_log_z(self, generator: torch.Generator, n: int) -> tuple[float, float]:
        """log Z and its standard error from n draws of `weighted`."""
        parts = torch.arange(n).split(100_000)
        weights = LogWeights(torch.cat([self.weighted(generator, len(part))[1] for part in parts]))
        return weights.log_mean, weights.log_mean_stderr

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 independent samples on the generator's device, by rejection from weighted draws.

        Weights above the cap are accepted as if they were at it, which is all that is not exact: 0.13 % of their sum at
        most for the shipped data.
        """
        return by_rejection(self.weighted, self.proposal[1], CAP, generator, n)


def shipped(name: str) -> LogisticRegression:
    """The regression on one of the package's data sets, "cancer" or "digits"."""
    with DATA.open("rb") as file, np.load(file, allow_pickle=False) as held:
        features, labels = (torch.from_numpy(held[f"{name}_{part}"]) for part in ("features", "labels"))
    target = LogisticRegression(f"logistic-{name}", features, labels)
    target.log_z, target.log_z_error = LOG_Z[name]
    return target
