"""Angles drawn one after the other, each from an exact mixture given those before it, and labels before all of them.

A step draws one angle: p_F is a mixture of wrapped normals whose parameters a network gives from the angles drawn so
far, and the label where the space has one; p_B takes the angle away again, with probability one. What is not drawn yet
is 0 in the state. On the circle kernels of a diffusion cost 0.02 nats a torsion however well they are trained; a
mixture has no such floor.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.basis.settings import setting
from molsampler.basis.space import Circle, Label, Space, log_wrapped_normal, wrap_angle
from molsampler.diffusion.networks import StepwiseMLP
from molsampler.diffusion.policy import Mix, Network, Policy
from molsampler.diffusion.process import Process, Steps

MIN_STD = 0.04
"""Radians, the least spread of a component: a tenth of a soft torsion's narrowest well."""
MAX_STD = 1.4
"""Radians, the largest: one image on each side of the nearest is then exact to 1e-6."""
_FIRST_STD = 0.37  # of components spaced evenly: sixteen of them are uniform to 1e-6
_WEIGHT_GAIN = 4.0
"""A mixture's log-weights are so many times what its network gives: they have to fall by five nats where no angle ever
is, means and spreads move by a fraction of themselves."""
_LABEL_GAIN = 10.0
"""A label's logits are so many times their parameters: several nats lie between a rare piece and a common one, and Adam
moves a parameter by no more than its rate an update."""


@dataclass(frozen=True)
class TorsionConfig:
    """Soft torsions drawn first, one a step, each from a mixture."""

    components: int = setting(16, "wrapped normals in a mixture", low=1, needs={"train.schedule.torsions": "first"})
    states: int = setting(
        1020,
        "data states of an update of denoising that train the mixtures, every one of them all angles",
        low=1,
        needs={"train.schedule.torsions": "first"},
    )
    dropout: float = setting(
        0.4,
        "share of the angles before it that an angle is not told in denoising, which keeps mixtures from learning by "
        "heart the few states that annealing found",
        low=0.0,
        below=1.0,
        needs={"train.schedule.torsions": "first"},
    )
    width: int = setting(128, "of a hidden layer", low=1, needs={"train.schedule.torsions": "first"})
    depth: int = setting(2, "hidden layers", low=1, needs={"train.schedule.torsions": "first"})


class Reveal(Process):
    """The backward side of `dim` angles, or labels, drawn in order: step n takes number n away. States (..., dim)."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        if len(space.parts) != 1 or not isinstance(space.parts[0], Circle | Label):
            raise ValueError("only angles, or labels, are drawn one by one")
        self.space, self.n_steps = space, space.dim
        self._log_choices = dataclasses.replace(space.parts[0], dim=1).prior_norm  # of one angle or label

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        return torch.zeros(n, self.space.dim, dtype=dtype, device=generator.device)

    def log_prior(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def log_reference(self, x: Tensor, n: Steps) -> Tensor:
        """Uniform in what is drawn so far."""
        drawn = n if isinstance(n, int) else n[:, None].to(x)
        return torch.zeros_like(x[..., 0]) - self._log_choices * drawn

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        return torch.zeros_like(x_next[..., 0])

    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        return self.before(x_next, n)

    def before(self, x: Tensor, n: Steps) -> Tensor:
        """x (..., B, dim) with what comes from n on taken away."""
        index = torch.arange(self.space.dim, device=x.device)
        kept = index < (n if isinstance(n, int) else n[:, None, None])
        return torch.where(kept, x, 0.0)

    def prior_mismatch(self, x_data: Tensor) -> float:
        return 0.0


class TorsionPolicy(Policy):
    """The forward side of `Reveal`: one network a step, from the angles drawn before it to a mixture.

    own : the columns of the angles in whole states (..., B, D); the networks see these columns alone
    besides, given : a label that is drawn before the angles, or a condition, which they depend on, and its columns
    """

    def __init__(
        self,
        process: Reveal,
        config: TorsionConfig,
        generator: torch.Generator,
        own: slice,
        besides: Space | None = None,
        given: slice = slice(0),  # noqa: B008, a slice is immutable
    ) -> None:
        super().__init__()
        self.process, self.config, self.own, self.given = process, config, own, given
        self.density = AngleMixtures(process.space, config, generator, besides)
        self._log_density: Network = self.density.forward

    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> TorsionPolicy:
        view = copy.copy(self)
        view._log_density = accelerate(self.density)
        return view

    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        new = torch.arange(self.process.space.dim, device=x.device) == (n if isinstance(n, int) else n[:, None, None])
        return self._log_density(self._seen(torch.where(new, x_next[..., self.own], x[..., self.own]), x), n)

    def _seen(self, angles: Tensor, x: Tensor) -> Tensor:
        """What the networks see of whole states x (..., B, D): angles (..., B, dim), and label or condition behind
        them."""
        return torch.cat([angles, x[..., self.given]], dim=-1) if self.density.besides else angles

    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        log_weight, mean, log_var = self.density.mixture(self._seen(x[..., self.own], x), n)
        if exploration:
            log_var = (log_var + 2.0 * math.log1p(exploration)).clamp_max(2.0 * math.log(MAX_STD))
        picked = torch.multinomial(log_weight.exp(), 1, generator=generator)  # (B, 1)
        noise = torch.randn(picked.shape, generator=generator, dtype=x.dtype, device=x.device)
        angle = wrap_angle(mean.gather(1, picked) + (0.5 * log_var.gather(1, picked)).exp() * noise)[:, 0]
        x_next = x.clone()
        x_next[:, self.own][:, n] = angle
        return x_next, _log_mixture(angle, log_weight, mean, log_var)

    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        """-log p_F of each angle given those before it, of which it is told a part; each of the states that are taken
        trains every angle."""
        steps = torch.arange(self.process.n_steps, device=x_data.device)
        x = x_data[None, : self.config.states]
        shape = (len(steps), x.shape[1], len(steps))
        told = torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device) >= self.config.dropout
        return -self._log_density(self._seen(x[..., self.own], x), steps, told.to(x)).mean(-1)


class LabelPolicy(Policy):
    """The forward side of `Reveal` for one label, the first thing drawn: a probability for every choice.

    own : the column of the label in whole states (..., B, D)
    """

    def __init__(self, process: Reveal, own: slice) -> None:
        super().__init__()
        (self.part,) = process.space.parts
        self.process, self.own = process, own
        self.logits = nn.Parameter(torch.zeros(self.part.choices))

    def log_probabilities(self) -> Tensor:
        """(choices,), the logarithms of the choices' probabilities."""
        return (_LABEL_GAIN * self.logits).log_softmax(-1)

    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> LabelPolicy:
        return self  # there is no network

    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        return self._log_prob(x_next[..., self.own])

    def _log_prob(self, label: Tensor) -> Tensor:
        """(...) of labels (..., 1)."""
        return self.log_probabilities()[label[..., 0].long()]

    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        log_p = (self.log_probabilities() / (1.0 + exploration)).log_softmax(-1)
        if not len(x):  # multinomial refuses to draw nothing
            return x, log_p[:0]
        picked = torch.multinomial(log_p.exp(), len(x), replacement=True, generator=generator)
        x_next = x.clone()
        x_next[:, self.own] = picked[:, None].to(x)
        return x_next, log_p[picked]

    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        return -self._log_prob(x_data[:, self.own]).mean(-1, keepdim=True)


class AngleMixtures(nn.Module):
    """The conditional densities of the angles of `space`, each a mixture of wrapped normals.

    besides : the space of labels or conditions that they depend on, whose columns stand behind the angles in what is
        handed in
    """

    def __init__(
        self, space: Space, config: TorsionConfig, generator: torch.Generator, besides: Space | None = None
    ) -> None:
        super().__init__()
        self.space, self.besides = space, besides
        k, dim = config.components, space.dim
        n_in = space.n_features() + (besides.n_features() if besides else 0)
        self.network = StepwiseMLP(n_in, 3 * k, dim, config.width, config.depth, generator)
        centres = 2.0 * math.pi * (torch.arange(k) + 0.5) / k - math.pi
        first = torch.cat([torch.zeros(k), centres, torch.full((k,), 2.0 * math.log(_FIRST_STD))])
        self.register_buffer("first", first, persistent=False)
        # features come harmonic by harmonic, each for all angles
        angle = torch.arange(space.n_features()) % dim
        seen = (angle < torch.arange(dim)[:, None]).float()
        self.register_buffer("seen", seen[:, None, :], persistent=False)  # (dim, 1, features) at step n
        self.register_buffer("of_angle", angle, persistent=False)

    def mixture(self, angles: Tensor, n: Steps, told: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log-variances (..., B, K) of angle n, given those before it in angles (..., B,
        dim), with what they depend on besides behind them.

        told : (..., B, dim), 1 for an angle that it is told, 0 for one that it is not; left out, all are told
        """
        features = self.space.features(angles[..., : self.space.dim]) * self.seen[n]
        if told is not None:
            features = features * told[..., self.of_angle]
        if self.besides:
            more = self.besides.features(angles[..., self.space.dim :])
            features = torch.cat([features, more.expand(*features.shape[:-1], -1)], dim=-1)
        out = self.network(features, n).float() + self.first
        log_weight, mean, log_var = out.chunk(3, dim=-1)
        log_var = log_var.clamp(2.0 * math.log(MIN_STD), 2.0 * math.log(MAX_STD))
        return (_WEIGHT_GAIN * log_weight).log_softmax(-1), mean, log_var

    def forward(self, angles: Tensor, n: Steps, told: Tensor | None = None) -> Tensor:
        """log density of angle n given those before it that it is told (`mixture`), (..., B), of angles (..., B, dim),
        with what they depend on besides behind them; for steps n (S,) angles may be (1, B, dim), the same states for
        every step."""
        mixture = self.mixture(angles, n, told)
        if isinstance(n, int):
            return _log_mixture(angles[..., n], *mixture)
        index = n[:, None, None].expand(-1, angles.shape[-2], 1)
        return _log_mixture(angles.expand(len(n), -1, -1).gather(-1, index)[..., 0], *mixture)


def _log_mixture(angle: Tensor, log_weight: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log density (...) of a mixture (..., K) of wrapped normals at angles (...)."""
    return (log_weight + log_wrapped_normal(angle[..., None] - mean, log_var, images=1)).logsumexp(-1)
