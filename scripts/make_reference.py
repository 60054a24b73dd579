"""Makes the stored reference of a molecule: python scripts/make_reference.py aldp --settings.ladders 32"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from molsampler.molecules.backend import make_energy
from molsampler.molecules.openmm_energy import OpenMMEnergy
from molsampler.molecules.reference_run import ReferenceSettings
from molsampler.molecules.system import find_system_folder, load_molecule
from molsampler.reference import store_reference


@dataclass(frozen=True)
class Arguments:
    system: tyro.conf.Positional[str]
    """Name of a folder in systems/, or the path of one."""
    out: Path | None = None
    """Where the reference goes; by default the folder `reference` of the system."""
    threads: int = 1
    keep_state: bool = False
    """Leave the state file, so that a longer run can go on from it."""
    settings: ReferenceSettings = field(default_factory=ReferenceSettings)


def main(arguments: Arguments) -> None:
    torch.set_num_threads(arguments.threads)
    molecule = load_molecule(arguments.system)
    folder = arguments.out or find_system_folder(arguments.system) / "reference"
    rescore = OpenMMEnergy(molecule, platform="Reference")
    reference = store_reference(
        molecule,
        make_energy(molecule),
        arguments.settings,
        folder,
        rescore=rescore,
        keep_state=arguments.keep_state,
    )
    rescore.close()
    for name, estimate in reference.populations.items():
        print(f"{name:12s} {estimate.value:.5f} +- {estimate.stderr:.5f}")
    print(f"The reference is in {folder}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
