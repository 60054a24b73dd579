"""What an update of each method costs on a synthetic target: processor time and evaluations, side by side.

    python scripts/benchmark_arms.py gmm25

Every arm that learns is begun as a run begins, with little annealing, and makes the same number of updates of its
objective (`denoising-only`: of denoising) without compilation, in one process and one thread; times are of the
processor and given as multiples of the first arm's. Evaluations are those of the updates alone.
"""

from __future__ import annotations

import time

import torch
import tyro

from molsampler.basis.settings import change
from molsampler.preparation.start import prepare
from molsampler.runs.methods import ARMS, apply_arm
from molsampler.runs.synthetic_config import synthetic_config
from molsampler.targets.charted import Charted, first_coordinates
from molsampler.targets.density import start_of
from molsampler.targets.synthetic import make_synthetic
from molsampler.training.config import TrainConfig
from molsampler.training.trainer import Trainer

CHEAP = {"anneal": {"particles": 512, "moves": 2, "last_moves": 2}, "prefill": {"frames": 4, "steps": 1}}


def main(target: tyro.conf.Positional[str] = "gmm25", arms: tuple[str, ...] = (), updates: int = 50) -> None:
    """Print a table of arms.

    Args:
        target: A synthetic target.
        arms: Methods; left out, all that learn, `tb` first.
        updates: Of each.
    """
    torch.set_num_threads(1)
    learning = [name for name, arm in ARMS.items() if arm.baseline is None and name != "tb"]
    config = change(
        synthetic_config(target).train, compile=False, precision="float32", warm_updates=0, updates=updates, **CHEAP
    )
    print("| arm | processor time an update, of the first | evaluations an update |\n|---|---|---|")
    first = None
    for name in arms or ("tb", *learning):
        seconds, evaluations = cost(target, apply_arm(name, config))
        first = first or seconds
        print(f"| {name} | {seconds / first:.2f} | {evaluations:.0f} |", flush=True)


def cost(name: str, config: TrainConfig) -> tuple[float, float]:
    """Processor seconds and evaluations of an update."""
    target = make_synthetic(name)
    annealed = config.start == "annealed"
    charted = Charted(target, first_coordinates(*start_of(target), "diagonal" if annealed else "prior"))
    generator = torch.Generator().manual_seed(0)
    start = prepare(charted, config.anneal, generator, lambda text: None) if annealed else None
    trainer = Trainer(charted, config, generator, say=lambda text: None)
    trainer.begin(start)
    spent, begun = target.counter.spent, time.process_time()
    while trainer.done < trainer.total:
        trainer.update()
    return (time.process_time() - begun) / trainer.done, (target.counter.spent - spent) / trainer.done


if __name__ == "__main__":
    tyro.cli(main)
