"""SOAP: Adam in the eigenbasis of the gradient's covariance, on matrices and stacks of them."""

from __future__ import annotations

import copy
import io

import torch
from torch import nn

from molsampler.diffusion.networks import StepwiseMLP
from molsampler.training.soap import SOAP, soap_groups
from tests.stochastic import seeded


def test_a_stack_of_matrices_is_updated_as_each_of_them_alone():
    start = torch.randn(3, 5, 4, generator=seeded(0), dtype=torch.float64)
    stack = nn.Parameter(start.clone())
    alone = [nn.Parameter(part.clone()) for part in start]
    together = SOAP([{"params": [stack], "rotate": True}], lr=0.1, every=3)
    single = SOAP([{"params": alone, "rotate": True}], lr=0.1, every=3)
    for k in range(10):
        gradient = torch.randn(3, 5, 4, generator=seeded(10 + k), dtype=torch.float64)
        stack.grad = gradient.clone()
        for parameter, part in zip(alone, gradient, strict=True):
            parameter.grad = part.clone()
        together.step()
        single.step()
    assert not torch.allclose(stack, start)
    assert torch.allclose(stack, torch.stack(list(alone)), atol=1e-10)


def test_without_rotation_it_is_adam():
    start = torch.randn(6, generator=seeded(1))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    soap = SOAP([{"params": [ours]}], lr=0.01, betas=(0.9, 0.99))
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for k in range(5):
        ours.grad = torch.randn(6, generator=seeded(k))
        theirs.grad = ours.grad.clone()
        soap.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_an_update_turns_with_its_parameters():
    """With orthogonal U and V, the updates of U W V from gradients U G V are U times those of W times V: the basis in
    which the matrix is written does not matter. Adam's are not."""
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=seeded(n), dtype=torch.float64))[0] for n in (4, 3))

    def walk(turned: bool, rotate: bool) -> torch.Tensor:
        w = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
        optimiser = SOAP([{"params": [w], "rotate": rotate}], lr=0.1, every=2)
        for k in range(12):
            gradient = torch.randn(4, 3, generator=seeded(k), dtype=torch.float64)
            w.grad = u @ gradient @ v if turned else gradient
            optimiser.step()
        return w.detach()

    assert torch.allclose(walk(True, True), u @ walk(False, True) @ v, atol=1e-9)
    assert not torch.allclose(walk(True, False), u @ walk(False, False) @ v, atol=1e-2)


def test_it_walks_down_an_ill_conditioned_valley_that_adam_does_not():
    """A quadratic |A W B - C|^2 with condition numbers of 300 on either side, 300 updates at the best of several
    rates."""

    def lowest(make) -> float:
        found = []
        for rate in (3e-3, 1e-2, 3e-2, 1e-1):
            a, b = (_conditioned(12, 300.0, k) for k in (1, 2))
            c = torch.randn(12, 12, generator=seeded(3), dtype=torch.float64)
            w = nn.Parameter(torch.zeros(12, 12, dtype=torch.float64))
            optimiser = make([w])
            for k in range(300):
                optimiser.zero_grad()
                loss = (a @ w @ b - a @ c @ b).square().sum()
                loss.backward()
                for group in optimiser.param_groups:
                    group["lr"] = rate * (1.0 - k / 300)
                optimiser.step()
            found.append(loss.item())
        return min(found)

    soap = lowest(lambda p: SOAP([{"params": p, "rotate": True}]))
    adam = lowest(lambda p: torch.optim.Adam(p, betas=(0.95, 0.95)))
    assert soap < 0.2 * adam


def _conditioned(n: int, condition: float, seed: int) -> torch.Tensor:
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=seeded(10 * seed + k), dtype=torch.float64))[0] for k in (0, 1))
    return u @ torch.diag(torch.logspace(0, 1, n, base=condition**0.5, dtype=torch.float64)) @ v / condition**0.5


def test_groups_hold_the_matrices_of_linear_layers_and_stacks():
    net = nn.ModuleList([nn.Linear(3, 4), StepwiseMLP(3, 2, 5, 8, 2, seeded(0))])
    matrices, rest = soap_groups(net, list(net.parameters()))
    assert matrices["rotate"] and not rest["rotate"]
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 3), (5, 3, 8), (5, 8, 8), (5, 8, 2)]
    assert len(matrices["params"]) + len(rest["params"]) == len(list(net.parameters()))


def test_it_goes_on_from_its_state():
    """Through torch.save and torch.load(weights_only=True), bit for bit."""

    def updates(w: nn.Parameter, optimiser: SOAP, which: range) -> None:
        for k in which:
            w.grad = torch.randn(4, 3, generator=seeded(k))
            optimiser.step()

    w = nn.Parameter(torch.zeros(4, 3))
    optimiser = SOAP([{"params": [w], "rotate": True}], lr=0.1, every=4)
    updates(w, optimiser, range(6))
    file = io.BytesIO()
    torch.save(optimiser.state_dict(), file)
    other = nn.Parameter(copy.deepcopy(w.detach()))
    again = SOAP([{"params": [other], "rotate": True}], lr=0.1, every=4)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    updates(w, optimiser, range(6, 15))
    updates(other, again, range(6, 15))
    assert torch.equal(w, other)
