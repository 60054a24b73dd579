"""Whether stated errors hold: repeats sampling from a fixed policy and counts how often the one-sigma interval of a
figure holds the truth. 68 % would be ideal.

    python scripts/benchmark_errors.py                    # a weighted population with known truth, and a trained policy
    python scripts/benchmark_errors.py --repeats 1000 --only population
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from molsampler.analysis.statistics.calibration import FIGURES, Population, calibrate
from molsampler.diffusion.trajectories import rollout
from molsampler.smc.trained import TrainedSampler
from molsampler.targets.density import Density
from molsampler.targets.synthetic_target import SyntheticTarget
from molsampler.training.config import TrainConfig
from molsampler.training.trainer import Trainer
