"""The noising process p_B, in steps that run as the sampler walks: n = 0 is the start, n = N the data.

`Process` is the contract that policies, objectives, SMC and replay see; they see steps, not their kinds.
`NoisingProcess` is diffusion of all coordinates at once, learnt_noising.py the same with kernels that learn;
torsions.py has steps of another kind, and chain.py puts kinds one after the other.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from molsampler.basis.space import LOG_2PI, Space
from molsampler.diffusion.noise import Noise, ScheduleConfig, Tables, noise_of

Steps = int | Tensor
"""One step for all of x (B, D), or a LongTensor (S,) of steps, one for each slice of x (S, B, D)."""


def rows(table: Tensor, n: Steps) -> Tensor:
    """Rows n of a table (N, ...), shaped to broadcast over the batch: (...) for an int, (S, 1, ...) for a tensor."""
    return table[n] if isinstance(n, int) else table[n].unsqueeze(1)


class Process(nn.Module, ABC):
    """The backward kernels of N steps on a space, and the density p_0 that they end in.

    States are (..., D), log densities (...). All of it is fixed, but for `LearntNoising`.
    """

    space: Space
    n_steps: int

    @abstractmethod
    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        """(n, D) draws of x_0."""

    @abstractmethod
    def log_prior(self, x: Tensor) -> Tensor:
        """log p_0(x), (..., D) -> (...)."""

    @abstractmethod
    def log_reference(self, x: Tensor, n: Steps) -> Tensor:
        """log density at step n of x (..., B, D) under the reference: the process of data N(0, I) x uniform."""

    @abstractmethod
    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        """log p_B(x | x_next) of steps n in 0..N-1; x, x_next (..., B, D) -> (..., B)."""

    @abstractmethod
    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        """Draw x_n given x_{n+1}, (..., B, D) -> (..., B, D)."""

    @abstractmethod
    def prior_mismatch(self, x_data: Tensor) -> float:
        """Chi-square bound on the loss of ESS by what data (M, D) leave in the prior; it should be far below one."""

    def chunk_ends(self, chunk: int) -> tuple[int, ...]:
        """The chunk ends 0 < n < N: every `chunk` steps, and wherever one kind of steps gives way to another."""
        return tuple(range(chunk, self.n_steps, chunk))

    def sample_path(self, x_data: Tensor, generator: torch.Generator) -> Tensor:
        """Noise data (B, D) all the way to the prior: states (N+1, B, D), the data last."""
        states = [x_data]
        for n in reversed(range(self.n_steps)):
            states.append(self.sample_step(states[-1], n, generator))
        return torch.stack(states[::-1])


class NoisingProcess(Process):
    """Diffusion of all coordinates together, each part in its own way (noise.py).

    Buffers, float32. (N, D): backward_scale, backward_log_var, forward_scale, forward_log_var, data_gain, state_gain,
    to_data, drift_scale; (N+1, D): marginal_scale, marginal_std, reference_var. A pinned process has x_0 = 0, whose log
    density under prior and p_B counts as zero.
    """

    def __init__(self, space: Space, config: ScheduleConfig) -> None:
        super().__init__()
        self.space = space
        self.n_steps = config.n_steps
        self.noises: list[Noise] = [noise_of(part, config) for part in space.parts]
        self.pinned = any(noise.pinned for noise in self.noises)
        self._tables = [noise.tables(config) for noise in self.noises]
        for field in dataclasses.fields(Tables):
            name, kernel = field.name, field.name in ("backward_var", "forward_var")
            per_part = [
                getattr(tables, name)[:, None].expand(-1, part.dim)
                for part, tables in zip(space.parts, self._tables, strict=True)
            ]
            table = torch.cat(per_part, dim=1)
            if kernel:
                name, table = name.replace("_var", "_log_var"), table.log()
            self.register_buffer(name, table.float())

    def at(self, n: Steps) -> dict[str, Tensor]:
        """The tables that regression targets need, at steps n."""
        return {name: rows(getattr(self, name), n) for name in ("data_gain", "state_gain", "to_data", "marginal_std")}

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        if self.pinned:
            return torch.zeros(n, self.space.dim, dtype=dtype, device=generator.device)
        return self.space.sample_prior(n, generator, dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0]) if self.pinned else self.space.log_prior(x)

    def log_reference(self, x: Tensor, n: Steps) -> Tensor:
        if not self.pinned:
            return self.space.log_prior(x)
        if isinstance(n, int):
            return self._log_reference(x, n) if n else torch.zeros_like(x[..., 0])
        return torch.where(n[:, None] > 0, self._log_reference(x, n), 0.0)

    def _log_reference(self, x: Tensor, n: Steps) -> Tensor:
        var = rows(self.reference_var, n)
        return -0.5 * (x.square() / var + var.log() + LOG_2PI).sum(-1)

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        if not self.pinned:
            return self._log_backward(x, x_next, n)
        if isinstance(n, int):
            return self._log_backward(x, x_next, n) if n else torch.zeros_like(x[..., 0])
        # the first step is no density: another stands in, so that its gradient stays a number
        return torch.where(n[:, None] > 0, self._log_backward(x, x_next, n.clamp_min(1)), 0.0)

    def _log_backward(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        return self.space.log_normal(x, rows(self.backward_scale, n) * x_next, rows(self.backward_log_var, n))

    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        mean = rows(self.backward_scale, n) * x_next
        return self.space.sample_normal(mean, rows(self.backward_log_var, n).expand_as(mean), generator)

    def sample_marginal(self, x_data: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        """Draw x_n, n in 0..N, given the data x_N in closed form; x_data (..., B, D) -> (..., B, D)."""
        noise = torch.randn(x_data.shape, generator=generator, dtype=x_data.dtype, device=x_data.device)
        return self.space.wrap(rows(self.marginal_scale, n) * x_data + rows(self.marginal_std, n) * noise)

    def regression_targets(self, x_data: Tensor, x: Tensor, score: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """A and W (S, B, D) for f_n at noised states x (S, B, D) of data with the target's score: both A and A + W have
        the mean f_n given x (denoising and target score matching, De Bortoli et al. 2024, arXiv 2402.08667)."""
        at = self.at(n)
        found = []
        for (_, own), noise in zip(self.space.columns(), self.noises, strict=True):
            tables = {name: table[..., own] for name, table in at.items()}
            found.append(noise.targets(tables, x_data[..., own], x[..., own], score[..., own]))
        a, w = zip(*found, strict=True)
        return torch.cat(a, -1), torch.cat(w, -1)

    def prior_mismatch(self, x_data: Tensor) -> float:
        """Largest absolute difference of log density between the noised data at n = 0 and the prior, first order.

        x_data : (M, D) data. On the line the noised marginal differs from N(0, 1) by s_0 mean and s_0^2 (var - 1),
        on the circle by the first Fourier mode 2 exp(-sigma_0^2 / 2) |E exp(i x)|. Returns the chi-square bound on
        the loss of ESS that these leave, summed over coordinates; it should be far below one. A pinned process has
        none.
        """
        pieces = zip(self.space.pieces(x_data.double()), self.noises, self._tables, strict=True)
        return sum(noise.mismatch(tables, own) for (_, own), noise, tables in pieces)
