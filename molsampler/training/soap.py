"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

The two sides of a matrix of parameters have their own running covariance of the gradient, L = E[G G^T] and R = E[G^T
G]. Adam runs on the gradient seen in their eigenbases, which are brought up to date by one step of orthogonal
iteration every few updates. Parameters that are no matrices are left to Adam.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MAX_SIDE = 1024  # beyond that the covariance of a side costs more than it brings


class SOAP(torch.optim.Optimizer):
    """Groups with `rotate` hold matrices (..., a, b), stacks of them included; the others are updated by Adam.

    lr : learning rate; betas : decay of both moments; every : updates between two refreshments of the eigenbases
    shampoo : decay of the covariances of the gradient
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
        shampoo: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "every": every, "shampoo": shampoo, "rotate": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, self.state[parameter], group)

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict, group: dict) -> None:
        rotate = group["rotate"] and parameter.ndim >= 2 and max(parameter.shape[-2:]) <= MAX_SIDE
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            if rotate:
                _begin(state, gradient)
                return  # the first gradient gives the eigenbases
        state["step"] += 1
        first, second = group["betas"]
        t = int(state["step"])
        state["mean"].lerp_(gradient, 1.0 - first)
        seen, mean = gradient, state["mean"]
        if rotate:
            left, right = state["left_basis"], state["right_basis"]
            seen, mean = left.mT @ gradient @ right, left.mT @ mean @ right
        state["square"].mul_(second).addcmul_(seen, seen, value=1.0 - second)
        scale = (state["square"] / (1.0 - second**t)).sqrt_().add_(group["eps"])
        change = mean / (1.0 - first**t) / scale
        if rotate:
            change = left @ change @ right.mT
        parameter.add_(change, alpha=-group["lr"])
        if rotate:
            state["left"].lerp_(gradient @ gradient.mT, 1.0 - group["shampoo"])
            state["right"].lerp_(gradient.mT @ gradient, 1.0 - group["shampoo"])
            if t % group["every"] == 0:
                _refresh(state)


def _begin(state: dict, gradient: Tensor) -> None:
    state["left"], state["right"] = gradient @ gradient.mT, gradient.mT @ gradient
    for side in ("left", "right"):
        state[f"{side}_basis"] = torch.linalg.eigh(state[side])[1].flip(-1).contiguous()


def _refresh(state: dict) -> None:
    """One step of orthogonal iteration, eigenvectors in the order of their eigenvalues; the second moments follow."""
    for side, axis in (("left", -2), ("right", -1)):
        basis = state[f"{side}_basis"]
        power = state[side] @ basis
        order = (basis * power).sum(-2).argsort(-1, descending=True)  # (..., k) by the eigenvalues' estimates
        state[f"{side}_basis"] = torch.linalg.qr(power.gather(-1, order.unsqueeze(-2).expand_as(power)))[0]
        index = order.unsqueeze(-1 if axis == -2 else -2).expand_as(state["square"])
        state["square"] = state["square"].gather(axis, index)


def soap_groups(module: nn.Module, parameters: list[nn.Parameter]) -> list[dict]:
    """These parameters of a module in two groups: the weights of linear layers and stacks of them (marked `matrices`),
    and the rest."""
    marked = {id(p) for m in module.modules() if isinstance(m, nn.Linear) for p in [m.weight]}
    marked |= {id(p) for m in module.modules() for p in getattr(m, "matrices", ())}
    return [
        {"params": [p for p in parameters if id(p) in marked], "rotate": True},
        {"params": [p for p in parameters if id(p) not in marked], "rotate": False},
    ]
