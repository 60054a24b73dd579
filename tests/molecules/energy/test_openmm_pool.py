"""The pool of OpenMM workers: deaths, failures to start, and an end that leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import openmm
import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.ranks import usable_cores
from molsampler.molecules.energy import choice, openmm_energy
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy
from molsampler.molecules.energy.openmm_pool import OpenMMPool, _Worker
from molsampler.molecules.energy.openmm_worker import ContextEvaluator
from tests.molecules.energy.energy_cases import DATA, molecule, reference, structures


def alive(pid: int) -> bool:
    """Whether the process exists, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def energy():
    energy = OpenMMEnergy(molecule("aldp"), "Reference", workers=2)
    yield energy
    energy.close()


def test_a_worker_killed_in_the_middle_of_a_batch_is_replaced_and_its_part_done_again(energy):
    x = structures(molecule("aldp"), 300)
    expected, expected_forces = reference(molecule("aldp"), x)
    first, second = energy.worker_ids
    os.kill(first, signal.SIGSTOP)  # however fast the machine, its part is not done when it is killed
    killer = threading.Timer(0.2, os.kill, (first, signal.SIGKILL))
    started = time.perf_counter()
    killer.start()
    value, forces = energy.energy_and_forces(x)
    took = time.perf_counter() - started
    killer.join()
    assert took > 0.2, "the batch was done before the worker was killed: the test saw nothing"
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(forces.numpy(), expected_forces, rtol=1e-9, atol=1e-6)
    replaced, same = energy.worker_ids
    assert replaced != first and same == second and not alive(first)


def test_a_worker_that_died_between_two_batches_is_replaced(energy):
    x = structures(molecule("aldp"), 4)
    expected = energy.energy(x)
    os.kill(energy.worker_ids[1], signal.SIGKILL)
    assert energy.energy(x).tolist() == expected.tolist()


def test_a_second_death_is_an_error_that_says_so(energy, monkeypatch):
    original = _Worker.wait_until_ready

    def ready_then_killed(worker):
        original(worker)
        worker.process.kill()
        worker.process.wait()

    monkeypatch.setattr(_Worker, "wait_until_ready", ready_then_killed)
    os.kill(energy.worker_ids[0], signal.SIGKILL)
    pids = energy.worker_ids
    with pytest.raises(RuntimeError, match="two OpenMM workers in turn died"):
        energy.energy(structures(molecule("aldp"), 4))
    assert not any(map(alive, pids))


def test_an_exception_of_openmm_makes_that_conformation_nan_and_no_other():
    mol = molecule("aldp")
    evaluator = ContextEvaluator(openmm.XmlSerializer.serialize(mol.system), "Reference", {})
    x = structures(mol, 3).numpy()
    expected, expected_forces = evaluator.evaluate(x, forces=True)
    context = evaluator._context

    class Failing:
        """The Context, except that it raises for the second conformation."""

        def setPositions(self, positions):
            if np.array_equal(positions, x[1]):
                raise openmm.OpenMMException("something went wrong")
            context.setPositions(positions)

        def getState(self, **what):
            return context.getState(**what)

    evaluator._context = Failing()
    energies, forces = evaluator.evaluate(x, forces=True)
    assert np.isnan(energies).tolist() == [False, True, False]
    np.testing.assert_array_equal(energies[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(forces[[0, 2]], expected_forces[[0, 2]])


def test_more_workers_than_conformations(energy):
    assert energy.energy(structures(molecule("aldp"), 1)).shape == (1,)


def test_closing_ends_all_workers_and_can_be_done_twice(energy):
    pids = energy.worker_ids
    assert all(map(alive, pids))
    energy.close()
    energy.close()
    assert not any(map(alive, pids))
    with pytest.raises(RuntimeError, match="closed"):
        energy.energy(structures(molecule("aldp"), 1))


def test_a_system_that_openmm_cannot_set_up_is_told_in_its_words():
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomExternalForce("nonsense(x)")
    force.addParticle(0, [])
    system.addForce(force)
    with pytest.raises(RuntimeError, match="unknown function: nonsense"):
        OpenMMPool(openmm.XmlSerializer.serialize(system), "Reference", {}, workers=1)


ENDS = {"": 0, "raise SystemExit(3)": 3, "os.kill(os.getpid(), 9)": -9}  # of a program, and its status
SCRIPT = """
import os
from molsampler.molecules.energy import choice, openmm_energy
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy
from molsampler.molecules.loading.load import load_molecule
import torch
molecule = load_molecule({folder!r})
for end in {ends!r}:
    program = os.fork()
    if program == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]), flush=True)
else:
    raise SystemExit
energy = OpenMMEnergy(molecule, "CPU", workers=2)
energy.energy(torch.from_numpy(molecule.positions)[None])
print(*energy.worker_ids, flush=True)
exec(end)
"""


def test_nothing_is_left_behind_when_the_program_ends():
    """Run from stdin, where the main module cannot be imported a second time; three programs forked from one."""
    code = SCRIPT.format(folder=str(DATA / "peptide"), ends=list(ENDS))
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=60)
    lines = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert [len(workers) for workers in lines[::2]] == [2, 2, 2], done.stderr
    assert [status for (status,) in lines[1::2]] == list(ENDS.values())
    pids = [pid for workers in lines[::2] for pid in workers]
    deadline = time.monotonic() + 5.0
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    assert done.stderr == ""


def test_one_worker_a_usable_core():
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"platform": "Quantum"}, "'Quantum' is not there; this machine has Reference, CPU"),
        ({"platform": "CPU", "precision": "double"}, "'CPU' computes in single"),
        ({"platform": "CPU", "precision": "half"}, "unknown precision 'half'"),
        ({"platform": "CPU", "workers": 0}, "workers = 0"),
    ],
)
def test_what_is_not_there_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        OpenMMEnergy(molecule("aldp"), **arguments)


@pytest.mark.parametrize("platform", ["CUDA", "auto"])
@pytest.mark.parametrize("device, index", [("cuda:1", "1"), ("cuda", "3"), ("cpu", None)])
def test_the_gpu_that_is_named_is_the_one_of_openmm(platform, device, index, monkeypatch):
    """Which properties a GPU's Context is made with; "cuda" is the device that is current."""
    asked = []

    class Context:
        def __init__(self, xml, platform, properties):
            asked.append((platform, properties))

        def device_name(self):
            return "NVIDIA H200"

    monkeypatch.setattr(openmm_energy, "ContextEvaluator", Context)
    monkeypatch.setattr(openmm_energy, "available_platforms", lambda: ["Reference", "CPU", "CUDA"])
    monkeypatch.setattr(choice, "check_device", torch.device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert make_energy(molecule("aldp"), "openmm", platform, device).platform == "CUDA"
    assert asked == [("CUDA", {"Precision": "mixed"} | ({} if index is None else {"DeviceIndex": index}))]
