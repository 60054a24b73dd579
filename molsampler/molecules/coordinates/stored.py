"""The coordinates that a run was made on, from what its checkpoint holds of them."""

from __future__ import annotations

import torch

from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.modes import ModeChart
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.molecule import Molecule

AnyChart = Chart | Atlas | TemperatureChart | ModeChart


def coordinates_from(
    molecule: Molecule, state: dict, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> AnyChart:
    """The coordinates of a molecule that a `state_dict` is of; InputError where it is another molecule's, or one at
    another temperature."""
    chart = Chart(molecule, dtype=dtype, device=device)
    own = state.get("inner", state)
    inner = Atlas(chart, own["torsions"], own["centres"]) if "charts" in own else chart
    found: AnyChart = inner
    if "inner" in state:
        found = ModeChart(inner, len(state["modes"]))
    elif "temperatures" in state:
        _, coldest, hottest = state["temperatures"]
        found = TemperatureChart(chart, molecule.temperature, coldest, hottest)
    found.load_state_dict(state)
    return found


def atlas_of(coordinates: AnyChart) -> Atlas | None:
    """The atlas that these coordinates are, or are made of."""
    inner = coordinates.inner if isinstance(coordinates, ModeChart) else coordinates
    return inner if isinstance(inner, Atlas) else None
