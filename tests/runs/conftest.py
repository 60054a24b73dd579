"""One finished run on the smallest molecule, which every test that needs one gets a copy of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from molsampler.analysis import steps
from molsampler.molecules.dynamics.quench import quench
from molsampler.runs import molecule, results
from tests import tiny


@pytest.fixture
def plain_analysis(monkeypatch) -> None:
    """No pictures, and 20 steps to the minima of basins in place of 1,000: most of the time of an analysis."""
    monkeypatch.setattr(steps, "_draw", lambda *arguments: None)
    monkeypatch.setattr(results, "quench", lambda energy, positions, steps: quench(energy, positions, 20))


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's threads are put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory) -> Path:
    """A run on gly from end to end: 16 updates, 160 samples by the policy, pictures, report."""
    before, out = torch.get_num_threads(), tmp_path_factory.mktemp("finished") / "gly"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "quench", lambda energy, positions, steps: quench(energy, positions, 20))
        job = molecule.begin(tiny.molecule_config(), out, say=lambda text: None)
        try:
            assert job.train(progress=False)
            results.sample(job, progress=False)
            results.conclude(job)
        finally:
            job.close()
            torch.set_num_threads(before)
    return out


@pytest.fixture
def finished(_finished, tmp_path, threads) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(_finished, tmp_path / "gly"))
