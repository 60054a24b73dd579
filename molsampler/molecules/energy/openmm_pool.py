"""A pool of OpenMM worker processes, one thread each; a worker that dies is replaced and its part is done once more."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np

from molsampler.basis.ranks import own_cores
from molsampler.molecules.energy import openmm_worker

_SCRIPT = Path(openmm_worker.__file__).resolve()


class WorkerDied(Exception):
    """A worker process is gone: its pipe is closed."""


class _Worker:
    """One child process and the two pipes to it."""

    def __init__(self, setup: dict) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # -P keeps the script's own folder off the child's path; a process group of its own keeps Ctrl-C away from it.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        self.send(setup)

    def send(self, message: object) -> None:
        try:
            openmm_worker.send(self.process.stdin, message)
        except OSError as error:
            raise WorkerDied from error

    def receive(self) -> object:
        try:
            return openmm_worker.receive(self.process.stdout)
        except (EOFError, OSError) as error:
            raise WorkerDied from error

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with OpenMM's words if the Context could not be made."""
        error = self.receive()
        if error is not None:
            raise RuntimeError(f"OpenMM cannot set up the molecule: {error}")

    def stop(self) -> None:
        """End and reap the process; safe to call twice."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _stop_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().stop()


class OpenMMPool:
    """Evaluates batches of conformations over `workers` processes (default: one a usable core, shared where several
    processes train together).

    system_xml, platform, properties : see ContextEvaluator
    """

    def __init__(self, system_xml: str, platform: str, properties: dict[str, str], workers: int | None = None) -> None:
        self._setup = {"system_xml": system_xml, "platform": platform, "properties": properties}
        self._workers: list[_Worker] = []
        # Runs when the pool is collected and at the exit of the interpreter, so that nothing is left behind.
        self._finalizer = weakref.finalize(self, _stop_all, self._workers)
        try:
            for _ in range(workers or own_cores()):
                self._workers.append(_Worker(self._setup))
            for worker in self._workers:
                worker.wait_until_ready()
        except WorkerDied:
            self.close()
            raise RuntimeError("an OpenMM worker process died while it was starting") from None
        except BaseException:
            self.close()
            raise

    @property
    def process_ids(self) -> list[int]:
        """Ids of the worker processes."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End all workers. Safe to call twice."""
        self._finalizer()

    def evaluate(self, positions: np.ndarray, forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """As ContextEvaluator.evaluate. Raises RuntimeError if a part of the batch kills two workers in turn."""
        if not self._workers:
            raise RuntimeError("this pool of OpenMM workers has been closed")
        try:
            parts = [p for p in np.array_split(positions, len(self._workers)) if len(p)] or [positions]
            sent = [self._try_send(k, (part, forces)) for k, part in enumerate(parts)]
            results = [self._finish(k, (part, forces), sent[k]) for k, part in enumerate(parts)]
        except BaseException:
            # An answer may be under way (Ctrl-C, say): the pipes can no longer be trusted to be in step.
            self.close()
            raise
        energies = np.concatenate([r[0] for r in results])
        return energies, np.concatenate([r[1] for r in results]) if forces else None

    def _try_send(self, k: int, request: tuple) -> bool:
        try:
            self._workers[k].send(request)
            return True
        except WorkerDied:
            return False

    def _finish(self, k: int, request: tuple, sent: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The answer of worker k, from its successor if it died."""
        if sent:
            with contextlib.suppress(WorkerDied):
                return self._workers[k].receive()
        self._workers[k].stop()
        try:
            self._workers[k] = _Worker(self._setup)
            self._workers[k].wait_until_ready()
            self._workers[k].send(request)
            return self._workers[k].receive()
        except WorkerDied:
            code = self._workers[k].process.wait()
            raise RuntimeError(
                f"two OpenMM workers in turn died (exit status {code}) on the same {len(request[0])} conformations; "
                "is there enough memory?"
            ) from None
