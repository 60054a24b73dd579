"""The learner: policy, twist and log Z, their optimisers and averages, and the one guarded way to change them.

Every rank has a learner of its own, and all are alike: they begin from the same seed, gradients are averaged over ranks
before anything is done with them, and an update is made on all ranks or on none.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from molsampler.basis import ranks
from molsampler.basis.compilation import CompiledOrEager
from molsampler.basis.space import Space
from molsampler.diffusion.conditions import ConditionalLogZ
from molsampler.diffusion.guidance import ScoreFunction
from molsampler.diffusion.kinds import apart, make_policy, make_process
from molsampler.diffusion.policy import Network
from molsampler.diffusion.process import Steps
from molsampler.diffusion.torsions import LabelPolicy, TorsionPolicy
from molsampler.diffusion.twist import Twist
from molsampler.training.config import BY_TRAJECTORY, OptimiserConfig, TrainConfig
from molsampler.training.soap import SOAP, soap_groups

_BETAS = (0.9, 0.99)  # of Adam


class Learner:
    """Everything that training changes, on one device.

    policy, twist : modules; log_z : learnt scalar (), and log_z_network : what log Z(c) has besides, for a target with
        conditions (`log_z_of`); averaged : the policy with exponentially averaged parameters,
        which samples; training_policy : `policy`, its networks compiled or in reduced precision
    balanced_policy : what the objective trains, the same or a view of it with a constant diffusion; denoised : the
        diffusions that go on with denoising meanwhile
    skipped : updates that were not made, by reason
    """

    def __init__(
        self,
        space: Space,
        config: TrainConfig,
        device: str = "cpu",
        score: ScoreFunction | None = None,
        say: Callable[[str], None] = print,
        *,
        guide: ScoreFunction | None = None,
    ) -> None:
        """score : grad log R, for a policy that sees it; guide : the score of the target's stand-in, for one that sees
        that; say : is told where compilation does not work"""
        self.config: OptimiserConfig = config.optimiser
        # the averages of what a process learns are averaged too, so that each policy has a process of its own
        self.process, averaged = (
            make_process(space, config.schedule, config.noising, config.seed).to(device) for _ in range(2)
        )
        init = torch.Generator().manual_seed(config.seed)
        self.policy = make_policy(self.process, config.policy, config.torsions, init, score, guide).to(device)
        self.twist = Twist(make_process(space, config.schedule), config.twist, init).to(device)
        self.log_z = nn.Parameter(torch.zeros((), device=device))
        self.log_z_network = ConditionalLogZ(space, config.twist, init).to(device) if space.conditional else None
        again = torch.Generator().manual_seed(config.seed)
        self.averaged = make_policy(averaged, config.policy, config.torsions, again, score, guide)
        self.averaged.to(device).requires_grad_(False)
        self.training_policy = self.policy.evaluated_by(accelerator(config.precision, config.compile, device, say))
        self.balanced_policy, self.denoised = self.training_policy, []
        if config.balanced == "torsions" and config.objective in BY_TRAJECTORY:
            self.balanced_policy, self.denoised = apart(self.training_policy)
        drawn = (LabelPolicy, TorsionPolicy)
        self._mixtures = [p for m in self.policy.modules() if isinstance(m, drawn) for p in m.parameters()]
        self._noising, self._noising_pace = list(self.process.parameters()), config.noising.pace
        own = {id(p) for p in [*self._mixtures, *self._noising]}
        self._rest = [p for p in self.policy.parameters() if id(p) not in own]
        self._averaged_over = 0
        self.skipped: Counter[str] = Counter()
        self.start_phase()

    def start_phase(self) -> None:
        """Fresh optimisers; the policy goes on from its averaged parameters."""
        with torch.no_grad():
            for parameter, average in zip(self.policy.parameters(), self.averaged.parameters(), strict=True):
                parameter.copy_(average)
        self.policy_optimiser = self._optimiser_of_policy()
        self.twist_optimiser = torch.optim.Adam(self.twist.parameters(), lr=1.0, betas=_BETAS)
        groups = [{"params": [self.log_z]}]
        if self.log_z_network is not None:  # learns at the policy's rate, not at the scalar's
            pace = self.config.rate / self.config.log_z_rate
            groups.append({"params": list(self.log_z_network.parameters()), "pace": pace})
        self.log_z_optimiser = torch.optim.Adam(groups, lr=1.0, betas=_BETAS)

    def _optimiser_of_policy(self) -> torch.optim.Optimizer:
        """Mixtures and what the noising process learns by Adam, at rates of their own; the rest by the configured
        method."""
        rest, mixtures = self._rest, self._mixtures
        soap = self.config.method == "soap"
        groups = soap_groups(self.policy, rest) if soap else [{"params": rest}]
        if mixtures:
            groups.append({"params": mixtures, "mixtures": True, "betas": _BETAS})
        if self._noising:
            groups.append({"params": self._noising, "pace": self._noising_pace, "betas": _BETAS})
        return SOAP(groups) if soap else torch.optim.Adam(groups, lr=1.0, betas=_BETAS)

    def set_log_z(self, log_z: float) -> None:
        """Begin from this log Z."""
        with torch.no_grad():
            self.log_z.fill_(log_z)

    def log_z_of(self, x: Tensor) -> Tensor:
        """The learnt log Z: the scalar (), or (...) of the conditions of states x (..., D)."""
        return self.log_z if self.log_z_network is None else self.log_z + self.log_z_network(x)

    def rate(self, done: int, total: int) -> float:
        """Share of the peak learning rate after `done` of `total` updates of a phase: a ramp, then a cosine."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(done / max(total, 1), 1.0)))
        return self.ramp(done) * (self.config.final + (1.0 - self.config.final) * cosine)

    def ramp(self, done: int) -> float:
        """Share of the peak learning rate after `done` updates of linear increase."""
        return min(1.0, (done + 1) / self.config.ramp)

    def step_policy(self, loss: Tensor, rate: float, with_log_z: bool, mixtures: float | None = None) -> bool:
        """One update of the policy, and of log Z with it; skipped and counted where anything is not finite.

        mixtures : the rate of mixtures, where it is not in its configured proportion to the policy's; log Z follows it
        """
        self._set_policy_rates(rate, mixtures)
        clipped = [self._rest, self._mixtures, self._noising]
        if not self._step(loss, [self.policy_optimiser], clipped, "policy"):
            return False
        self._after_policy(rate if mixtures is None else mixtures, with_log_z)
        return True

    def step_twist(self, loss: Tensor, rate: float) -> bool:
        """One update of the twist; skipped and counted where anything is not finite."""
        _set_rate(self.twist_optimiser, rate)
        return self._step(loss, [self.twist_optimiser], [list(self.twist.parameters())], "twist")

    def step_both(self, loss: Tensor, rate: float, twist_rate: float) -> bool:
        """One update of policy, twist and log Z by one loss; skipped and counted where anything is not finite."""
        self._set_policy_rates(rate)
        _set_rate(self.twist_optimiser, twist_rate)
        clipped = [[*self.policy.parameters()], [*self.twist.parameters()]]
        if not self._step(loss, [self.policy_optimiser, self.twist_optimiser], clipped, "policy and twist"):
            return False
        self._after_policy(rate, with_log_z=True)
        return True

    def _set_policy_rates(self, rate: float, mixtures: float | None = None) -> None:
        """mixtures : their rate; in the configured proportion to the policy's where left out"""
        if mixtures is None:
            mixtures = rate * self.config.mixture_rate / self.config.warm_rate
        for group in self.policy_optimiser.param_groups:
            group["lr"] = mixtures if group.get("mixtures") else rate * group.get("pace", 1.0)

    def _after_policy(self, rate: float, with_log_z: bool) -> None:
        if with_log_z:
            _set_rate(self.log_z_optimiser, self.config.log_z_rate * rate / self.config.rate)
            self.log_z_optimiser.step()
        self._averaged_over += 1
        decay = min(self.config.ema, self._averaged_over / (10.0 + self._averaged_over))
        average, learning = list(self.averaged.parameters()), [p.detach() for p in self.policy.parameters()]
        torch._foreach_lerp_(average, learning, 1.0 - decay)

    def _step(self, loss: Tensor, optimisers: list[torch.optim.Optimizer], clipped: list[list], of: str) -> bool:
        """clipped : lists of parameters, the gradient of each clipped by itself"""
        (broken,) = ranks.any_of(not bool(torch.isfinite(loss)))
        if broken:
            self.skipped[f"{of}: loss not finite"] += 1
            return False
        self.log_z_optimiser.zero_grad()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        conditional = [] if self.log_z_network is None else list(self.log_z_network.parameters())
        clipped = [*clipped, conditional] if conditional else clipped
        ranks.average_gradients([*(p for parameters in clipped for p in parameters), self.log_z])
        norms = [nn.utils.clip_grad_norm_(parameters, self.config.clip) for parameters in clipped]
        if self.log_z.grad is not None:
            norms.append(self.log_z.grad)
        if not all(bool(torch.isfinite(norm)) for norm in norms):
            self.skipped[f"{of}: gradient not finite"] += 1
            return False
        for optimiser in optimisers:
            optimiser.step()
        return True

    def log_twist(self, x: Tensor, n: Steps, log_r: Tensor | None = None) -> Tensor:
        """log F_n(x), (..., B), at the learnt log Z."""
        return self.twist(x, n, self.log_z_of(x).detach(), log_r)

    def fingerprint(self) -> str:
        """A digest of all parameters: two learners that have the same one are alike to the last bit."""
        digest = hashlib.sha256()
        for parameter in [p for m in self._modules() for p in m.parameters()] + [self.log_z]:
            digest.update(parameter.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _modules(self) -> list[nn.Module]:
        modules = [self.policy, self.averaged, self.twist]
        return modules if self.log_z_network is None else [*modules, self.log_z_network]

    def agree(self) -> None:
        """Where rounding has told the learners of the ranks apart they become the first one's again (collective).

        The same gradients change all of them, and the same arithmetic gives the same bits; another number of threads,
        or another processor, may round otherwise, and training would carry that on.
        """
        own = self.fingerprint()
        (apart,) = ranks.any_of(own != ranks.from_first(own))
        if apart:
            self.load_state_dict(ranks.from_first(self.state_dict()))

    def state_dict(self) -> dict:
        """All that training changes, optimisers included; alike on every rank."""
        return {
            "policy": self.policy.state_dict(),
            "averaged": self.averaged.state_dict(),
            "twist": self.twist.state_dict(),
            "log_z": self.log_z.detach(),
            "log_z_network": None if self.log_z_network is None else self.log_z_network.state_dict(),
            "averaged_over": self._averaged_over,
            "skipped": dict(self.skipped),
            "policy_optimiser": self.policy_optimiser.state_dict(),
            "twist_optimiser": self.twist_optimiser.state_dict(),
            "log_z_optimiser": self.log_z_optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for name in ("policy", "averaged", "twist", "policy_optimiser", "twist_optimiser", "log_z_optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.set_log_z(float(state["log_z"]))
        if self.log_z_network is not None:
            self.log_z_network.load_state_dict(state["log_z_network"])
        self._averaged_over, self.skipped = state["averaged_over"], Counter(state["skipped"])


def accelerator(
    precision: str, compile: bool, device: str, say: Callable[[str], None]
) -> Callable[[nn.Module], Network]:
    """What makes a network train compiled and in the given precision; sampling stays eager, in float32."""

    def accelerate(network: nn.Module) -> Network:
        fast = CompiledOrEager(network, say) if compile else network.forward
        if precision == "float32":
            return fast

        def reduced(x: Tensor, n: Steps, *more: Tensor) -> Tensor:
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                return fast(x, n, *more).float()

        return reduced

    return accelerate


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("pace", 1.0)


def faster_precision(device: str = "cpu") -> str:
    """ "bfloat16" where this processor multiplies it at least 1.3 times as fast as float32, by a quick measurement."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(4096, 256, dtype=dtype, device=device), torch.ones(256, 256, dtype=dtype, device=device)
        best = math.inf
        for _ in range(12):
            start = time.perf_counter()
            for _ in range(4):
                (a @ b)[0, 0].item()
            best = min(best, time.perf_counter() - start)
        return best

    return "bfloat16" if seconds(torch.float32) > 1.3 * seconds(torch.bfloat16) else "float32"
