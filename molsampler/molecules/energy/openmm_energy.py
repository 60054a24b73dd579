"""The energy contract over OpenMM Contexts: any System that OpenMM can evaluate, on any of its platforms."""

from __future__ import annotations

import openmm
import torch
from torch import Tensor

from molsampler.basis.counter import EvaluationCounter
from molsampler.basis.errors import InputError
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.openmm_pool import OpenMMPool
from molsampler.molecules.energy.openmm_worker import ContextEvaluator
from molsampler.molecules.molecule import Molecule

GPU_PLATFORMS = ("CUDA", "OpenCL", "HIP")
PRECISIONS = ("single", "mixed", "double")
FIXED_PRECISION = {"CPU": "single", "Reference": "double"}
_CPU_DEVICES = ("cpu", "pocl", "pthread", "xeon", "epyc", "ryzen", "core(tm)", "llvmpipe")


def available_platforms() -> list[str]:
    """Names of the platforms that this OpenMM has loaded."""
    return [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]


class OpenMMEnergy(Energy):
    """`Energy` of a molecule by OpenMM.

    platform : "CUDA", "OpenCL", "CPU", "Reference", or "auto": CUDA, else OpenCL on a GPU, else CPU
    precision : "single", "mixed" or "double" where the platform has the choice; None: mixed there
    workers : number of processes on CPU and Reference, one thread each; None: one a usable core. None on a GPU.
    counter : of evaluations, where another energy's is to be shared
    device : the torch device of what goes with it; "cuda:1" takes the second GPU where the platform is one of a GPU

    Positions go to OpenMM in double; results come back in the dtype and on the device of the positions.
    Raises InputError for a platform or precision that is not there.
    """

    def __init__(
        self,
        molecule: Molecule,
        platform: str = "auto",
        precision: str | None = None,
        workers: int | None = None,
        counter: EvaluationCounter | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(molecule.n_atoms, counter)
        if workers is not None and workers < 1:
            raise InputError(f"workers = {workers}: at least one OpenMM worker is needed")
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"unknown precision '{precision}'; choose one of {', '.join(PRECISIONS)}")
        xml = openmm.XmlSerializer.serialize(molecule.system)
        self.platform, self._evaluator = _open(xml, platform, precision, workers, torch.device(device))

    @property
    def worker_ids(self) -> list[int]:
        """Process ids of the workers; none on a GPU."""
        return self._evaluator.process_ids if isinstance(self._evaluator, OpenMMPool) else []

    def close(self) -> None:
        if isinstance(self._evaluator, OpenMMPool):
            self._evaluator.close()

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        batch = positions.to("cpu", torch.float64).contiguous().numpy()
        energy, force = self._evaluator.evaluate(batch, forces)
        return (
            torch.from_numpy(energy).to(positions),
            None if force is None else torch.from_numpy(force).to(positions),
        )


def check_platform(platform: str) -> None:
    """Raises InputError, naming what there is, unless `platform` is "auto" or one that this OpenMM has loaded."""
    there = available_platforms()
    if platform not in ("auto", *there):
        raise InputError(f"OpenMM platform '{platform}' is not there; this machine has {', '.join(there)}")


def _open(
    xml: str, platform: str, precision: str | None, workers: int | None, device: torch.device
) -> tuple[str, ContextEvaluator | OpenMMPool]:
    check_platform(platform)
    there = available_platforms()
    if platform == "auto":
        for name in ("CUDA", "OpenCL"):
            if name not in there:
                continue
            try:
                context = _gpu_context(xml, name, precision, device)
            except openmm.OpenMMException:  # the plug-in is installed, the device or its driver is not
                continue
            if not any(word in context.device_name().lower() for word in _CPU_DEVICES):
                return name, context
        platform = "CPU"
    if platform in GPU_PLATFORMS:
        try:
            return platform, _gpu_context(xml, platform, precision, device)
        except openmm.OpenMMException as error:
            raise InputError(
                f"OpenMM platform '{platform}' does not start here ({error}); this machine has {', '.join(there)}"
            ) from error
    fixed = FIXED_PRECISION.get(platform)
    if precision not in (None, fixed):
        raise InputError(f"OpenMM platform '{platform}' computes in {fixed}; precision '{precision}' needs a GPU")
    properties = {"Threads": "1"} if platform == "CPU" else {}
    return platform, OpenMMPool(xml, platform, properties, workers)


def _gpu_context(xml: str, platform: str, precision: str | None, device: torch.device) -> ContextEvaluator:
    properties = {"Precision": precision or "mixed"}
    if device.type == "cuda":  # without an index the one that is current, which differs between ranks
        index = torch.cuda.current_device() if device.index is None else device.index
        properties["DeviceIndex"] = str(index)
    return ContextEvaluator(xml, platform, properties)
