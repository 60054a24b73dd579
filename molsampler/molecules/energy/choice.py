"""Which implementation of the energy contract serves a molecule: the torch kernels where they cover it, else OpenMM."""

from __future__ import annotations

from collections.abc import Callable

import torch

from molsampler.basis.errors import InputError
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy, check_platform
from molsampler.molecules.energy.torch_energy import Potential, TorchEnergy, UnsupportedForce
from molsampler.molecules.molecule import Molecule

BACKENDS = ("auto", "torch", "openmm")


def make_energy(
    molecule: Molecule,
    backend: str = "auto",
    platform: str = "auto",
    device: str | torch.device = "cpu",
    compile: bool = True,
    say: Callable[[str], None] = print,
) -> Energy:
    """The energy of `molecule`.

    backend : "torch", "openmm", or "auto": torch where it covers every force, else OpenMM, of which `say` is told
    platform : OpenMM's platform, for the bridge: "CUDA", "OpenCL", "CPU", "Reference" or "auto"
    device : for the torch kernels, and which GPU it is for the bridge, where that is on one;  compile : the kernels
    Raises InputError for a backend, platform or device that is not there, and for a force that "torch" does not cover.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown energy backend '{backend}'; choose one of {', '.join(BACKENDS)}")
    device = check_device(device)
    check_platform(platform)
    if backend == "openmm":
        return OpenMMEnergy(molecule, platform=platform, device=device)
    try:
        return TorchEnergy(molecule, device=device, compile=compile, say=say)
    except UnsupportedForce as error:
        if backend == "torch":
            raise InputError(uncovered(error)) from error
        energy = OpenMMEnergy(molecule, platform=platform, device=device)
        say(f"energy: OpenMM ({energy.platform}) instead of torch, which does not cover {error}")
        return energy


def check_energy(molecule: Molecule, backend: str, platform: str, device: str | torch.device) -> None:
    """InputError where `make_energy` would refuse, found out without computing anything."""
    check_device(device)
    check_platform(platform)
    if backend == "torch":
        try:
            Potential(molecule.system)
        except UnsupportedForce as error:
            raise InputError(uncovered(error)) from error


def uncovered(error: UnsupportedForce) -> str:
    """The sentence on a force that the torch kernels do not cover."""
    return f"the torch energy does not cover {error}; use the backend 'openmm' or 'auto'"


def check_device(device: str | torch.device) -> torch.device:
    """`device` as a torch.device; raises InputError, naming what there is, if this machine does not have it."""
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if str(device).partition(":")[0] == "mps":
        raise InputError(f"device '{device}' has no double precision, which is needed: choose {' or '.join(there)}")
    if str(device) not in there:
        raise InputError(f"device '{device}' is not there; this machine has {', '.join(there)}")
    return torch.device(device)
