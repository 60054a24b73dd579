"""Where an update's time goes, and what its matrix products alone would take.

    python scripts/benchmark_training.py tetra --changes '{}' '{"policy": {"guide": false}}' --threads 1

Each of `changes` is JSON of [train], laid over what a run on a molecule begins with. MD, annealing and compilation are
done once, and nothing of that is timed. Updates of denoising are timed first, then of the objective, as a run makes
them, with everything that goes with them (rollouts, SMC, moves). A part's milliseconds are those of an update on
average, less those of the parts inside it. The matrix products are those of all networks, forward and where they are
trained backward, of the same sizes, timed bare in the same run.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
import tyro
from benchmark_policies import begun
from torch import Tensor, nn

from molsampler.diffusion.networks import StepwiseMLP
from molsampler.diffusion.policy import DiffusionPolicy
from molsampler.diffusion.torsions import TorsionPolicy
from molsampler.training import trainer as trainer_module
from molsampler.training.trainer import Trainer

SETTLING = 8  # updates of each kind that are not timed
PRODUCTS = 3  # repeats of the bare products, of which the fastest counts


class Stopwatch:
    """Seconds by part, each less the parts inside it; and the shapes of all matrix products of networks.

    products : how often (stacked matrices, rows, in, out, whether trained) was multiplied
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.products: Counter[tuple[int, int, int, int, bool]] = Counter()
        self._inside: list[float] = []

    def clear(self) -> None:
        self.seconds.clear()
        self.products.clear()

    def part(self, name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - begun
                self.seconds[name] += spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent

        return timed

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Times what is called through that attribute from now on."""
        setattr(owner, attribute, self.part(name, getattr(owner, attribute)))

    def network(self, module: nn.Module, evaluate: Callable, name: str) -> Callable:
        """`evaluate`, timed, the sizes of its products noted."""
        timed = self.part(name, evaluate)
        stacks = [stack for part in module.modules() if isinstance(part, StepwiseMLP) for stack in part.weights]
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]

        def noted(x: Tensor, n: Any, *more: Tensor) -> Tensor:
            out = timed(x, n, *more)
            trained, steps = out.requires_grad, 1 if isinstance(n, int) else len(n)
            for layer in layers:
                self.products[1, x[..., 0].numel(), layer.in_features, layer.out_features, trained] += 1
            for stack in stacks:
                self.products[steps, x.shape[-2], *stack.shape[1:], trained] += 1
            return out

        return noted


def main(
    system: tyro.conf.Positional[str], changes: tuple[str, ...] = ("{}",), updates: int = 80, threads: int = 1
) -> None:
    """Time the updates of each configuration.

    Args:
        system: A name in systems/, a folder or a system.toml.
        changes: JSON of [train], one configuration each.
        updates: Of each kind.
        threads: Of torch.
    """
    begin = torch.Tensor.backward
    for trainer in begun(system, changes):
        torch.set_num_threads(threads)
        made = SETTLING + updates
        trainer.config = dataclasses.replace(trainer.config, warm_updates=made, updates=made)
        watch = Stopwatch()
        torch.Tensor.backward = watch.part("backward", begin)
        _watched(trainer, watch)
        print("| | ms an update | of these | bare products | ratio |")
        print("|---" * 5 + "|")
        for phase in ("denoising", "objective"):
            trainer.done = 0 if phase == "denoising" else trainer.warm_updates
            for _ in range(SETTLING):
                trainer.update()
            watch.clear()
            seconds = time.perf_counter()
            for _ in range(updates):
                trainer.update()
            seconds = (time.perf_counter() - seconds) / updates
            _told(phase, seconds, watch, updates)
    torch.Tensor.backward = begin


def _watched(trainer: Trainer, watch: Stopwatch) -> None:
    """Puts the watch on the parts of an update."""
    learner, behaviours, target = trainer.learner, trainer.behaviours, trainer.target
    watched = {id(learner.policy): "sampling", id(learner.training_policy): "training"}
    for policy in (learner.policy, learner.training_policy, learner.averaged):
        use = watched.get(id(policy), "sampling")
        for view in getattr(policy, "views", [policy]):
            if isinstance(view, DiffusionPolicy):
                view._evaluate = watch.network(view.network, view._evaluate, f"diffusion network, {use}")
                if view.guidance is not None and "forward" not in vars(view.guidance):
                    watch.watch(view.guidance, "forward", "guide")
            elif isinstance(view, TorsionPolicy):
                view._log_density = watch.network(view.density, view._log_density, f"mixtures, {use}")
    learner.twist.network.forward = watch.network(learner.twist.network, learner.twist.network.forward, "twist")
    watch.watch(target, "log_prob_and_score", "energy")
    watch.watch(learner.policy_optimiser, "step", "optimiser")
    watch.watch(learner, "_after_policy", "optimiser")
    watch.watch(learner.twist_optimiser, "step", "optimiser")
    for name, attribute in (("SMC", "smc"), ("moves", "local_moves"), ("rollouts", "on_policy"), ("replay", "draw")):
        watch.watch(behaviours, attribute, name)
    trainer_module.score_states = watch.part("log densities", trainer_module.score_states)
    watch.watch(trainer, "_denoising_losses", "noising and loss")
    watch.watch(trainer.twisting, "update", "twist")


def _told(phase: str, seconds: float, watch: Stopwatch, updates: int) -> None:
    """One line: the update, its parts, the bare products."""
    bare = sum(count * _bare(*shape) for shape, count in watch.products.items()) / updates
    parts = sorted(watch.seconds.items(), key=lambda item: -item[1])
    named = sum(watch.seconds.values()) / updates
    cells = [f"{name} {1e3 * spent / updates:.1f}" for name, spent in parts]
    print(f"| {phase} | {1e3 * seconds:.0f} | {', '.join(cells)}, rest {1e3 * (seconds - named):.1f} "
          f"| {1e3 * bare:.0f} | {seconds / bare:.2f} |", flush=True)  # fmt: skip


def _bare(stacked: int, rows: int, n_in: int, n_out: int, trained: bool) -> float:
    """Seconds of the products of one layer: forward, and with gradients of input and weights where it is trained."""
    x, weight = torch.ones(stacked, rows, n_in), torch.ones(stacked, n_in, n_out)
    out = torch.ones(stacked, rows, n_out)
    best = float("inf")
    for _ in range(PRODUCTS):
        begun = time.perf_counter()
        x @ weight
        if trained:
            out @ weight.mT
            x.mT @ out
        best = min(best, time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    tyro.cli(main)
