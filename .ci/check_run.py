"""Opens the smoke run in the folder given with mdtraj: python .ci/check_run.py FOLDER"""

import json
import sys
from pathlib import Path

import mdtraj as md
import numpy as np

run = Path(sys.argv[1])
frames = md.load(run / "samples.dcd", top=run / "topology.pdb")
phi = md.compute_phi(frames)[1]
assert frames.n_frames > 0 and phi.shape == (frames.n_frames, 1) and np.isfinite(frames.xyz).all()
assert md.load(run / "resampled.dcd", top=run / "topology.pdb").n_frames >= 1
with np.load(run / "weights.npz") as weights:
    for name in ("log_weights", "potential_energy", "log_prob"):
        assert weights[name].shape == (frames.n_frames,), f"{name} has shape {weights[name].shape}"
metrics = json.loads((run / "metrics.json").read_text())
assert metrics["ess"]["value"] is not None
for name in ("config.toml", "metrics.csv", "checkpoint.pt", "report.html"):
    assert (run / name).stat().st_size > 0, f"{name} is empty"
for name in ("ramachandran", "torsions", "energy", "rmsd", "training"):
    assert (run / f"{name}.png").stat().st_size > 5_000, f"{name}.png is too small to be a picture"
print(f"{run.name}: {frames.n_frames} frames, ESS {metrics['ess']['value']:.4f}")
