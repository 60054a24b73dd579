"""The coordinates that a run was made on, from what its checkpoint holds of them."""

from __future__ import annotations

import torch

from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.molecule import Molecule

AnyChart = Chart | Atlas | TemperatureChart


def coordinates_from(
    molecule: Molecule, state: dict, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> AnyChart:
    """The coordinates of a molecule that a `state_dict` is of; InputError where it is another molecule's, or one at
    another temperature."""
    chart = Chart(molecule, dtype=dtype, device=device)
    found: AnyChart = chart
    if "charts" in state:
        found = Atlas(chart, state["torsions"], state["centres"])
    elif "temperatures" in state:
        _, coldest, hottest = state["temperatures"]
        found = TemperatureChart(chart, molecule.temperature, coldest, hottest)
    found.load_state_dict(state)
    return found
