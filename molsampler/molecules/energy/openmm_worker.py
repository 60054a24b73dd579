"""One OpenMM Context that evaluates conformations, and the worker process around it.

The process reads requests on stdin and answers on stdout, and ends when stdin closes: if its parent dies, however it
dies, the worker goes too. It is started as a script and imports OpenMM and numpy only, nothing of this package.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
import openmm
from openmm import unit

_LENGTH = struct.Struct("<Q")


class ContextEvaluator:
    """Energies and forces of one System on one platform, one conformation after the other.

    system_xml : the serialized openmm.System; platform : its name in OpenMM; properties : handed to the Context
    """

    def __init__(self, system_xml: str, platform: str, properties: dict[str, str]) -> None:
        system = openmm.XmlSerializer.deserialize(system_xml)
        self._context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform), properties
        )

    def device_name(self) -> str:
        """The device's name as the platform gives it, '' for platforms without."""
        platform = self._context.getPlatform()
        if "DeviceName" not in platform.getPropertyNames():
            return ""
        return platform.getPropertyValue(self._context, "DeviceName")

    def evaluate(self, positions: np.ndarray, forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """positions (B, N, 3) float64 nm -> energies (B,) kJ/mol and forces (B, N, 3) kJ/mol/nm or None, float64.

        A conformation that is not finite, or for which OpenMM raises, has energy NaN; the others are not affected.
        """
        energies = np.full(len(positions), np.nan)
        all_forces = np.zeros_like(positions) if forces else None
        for k in np.flatnonzero(np.isfinite(positions).all((1, 2))):
            try:
                self._context.setPositions(positions[k])
                state = self._context.getState(energy=True, forces=forces)
            except openmm.OpenMMException:
                continue
            energies[k] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            if all_forces is not None:
                all_forces[k] = state.getForces(asNumpy=True).value_in_unit_system(unit.md_unit_system)
        return energies, all_forces


def send(stream: BinaryIO, message: Any) -> None:
    """Write one pickled message, its length in front."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message; raises EOFError where the other side has gone."""
    (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
    return pickle.loads(_read_exactly(stream, length))


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if data is None or len(data) < size:
        raise EOFError("the other side of the pipe has gone")
    return data


def main() -> None:
    """Answer requests until stdin closes. The first message holds ContextEvaluator's arguments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else writes to stdout must not end up among the replies
    try:
        try:
            evaluator = ContextEvaluator(**receive(requests))
        except openmm.OpenMMException as error:
            send(replies, str(error))
            return
        send(replies, None)
        while True:
            positions, forces = receive(requests)
            send(replies, evaluator.evaluate(positions, forces))
    except (EOFError, BrokenPipeError):
        # The parent closed the pipe or died. Skip the interpreter's shutdown: it would flush into the broken pipe.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
