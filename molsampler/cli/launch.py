"""Several ranks on this machine from one command: spawned by torch, watched, and stopped together.

A command that wants more processes than it has raises `Several`; `guarded` then starts that many, each of which runs
the same command as a rank. What torchrun starts needs none of this: those processes are ranks already.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp
from tqdm import tqdm

from molsampler.basis import ranks
from molsampler.basis.errors import InputError

STOPPED = 130
LOST = 3
"""Exit status of a rank that ended because another one was gone."""
GRACE = 5.0  # seconds for the others, once a rank has failed
Act = Callable[..., object]


class Several(Exception):
    """The command is to be run by `count` ranks: act(*arguments) in each."""

    def __init__(self, count: int, act: Act, arguments: tuple[Any, ...]) -> None:
        super().__init__(count)
        self.count, self.act, self.arguments = count, act, arguments


def several(asked: int | None, held: Callable[[], int], act: Act, *arguments: Any) -> None:
    """Raises Several where this process is alone and the command wants more; act and arguments can be pickled.

    asked : by an option, None where it was not given; held : the number that a configuration has; 0 is one a core
    Raises InputError where torchrun has started another number than the option says.
    """
    if ranks.size() > 1:
        if asked and asked != ranks.size():
            raise InputError(
                f"--processes {asked} does not go with the {ranks.size()} processes that were started: leave it out"
            )
        return
    count = held() if asked is None else asked
    if count == 0:
        count = ranks.usable_cores()
    if count > 1:
        raise Several(count, act, arguments)


def launch(enter: Callable[[str, Act], int], program: str, wanted: Several) -> int:
    """Run a command by ranks; returns its exit status, with one sentence where one of them was killed.

    enter : `guarded`, which turns what a command does into an exit status
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # outlives every rank
    processes: list[BaseProcess] = []
    with _forwarding(processes) as signals:
        arguments = (enter, program, wanted.count, store.port, wanted.act, wanted.arguments)
        context = mp.start_processes(_rank, arguments, nprocs=wanted.count, join=False, start_method="spawn")
        processes += context.processes
        for number in signals:  # those that came before there was anybody to pass them on to
            _send(processes, number)
        codes = _wait(processes)
    failed = {k: code for k, code in enumerate(codes) if code not in (0, STOPPED, LOST)}
    if signals and (failed or LOST in codes):
        return STOPPED  # interrupted before training could be saved
    for k, code in failed.items():
        if code < 0:
            print(
                f"{program}: process {k + 1} of {wanted.count} was killed ({signal.Signals(-code).name}), and the run "
                "ended with it: go on from its last checkpoint with --resume",
                file=sys.stderr,
            )
            return 1
    return next(iter(failed.values()), max(codes))


def _rank(
    index: int, enter: Callable[[str, Act], int], program: str, count: int, port: int, act: Act, arguments: tuple
) -> None:
    """What each spawned process does."""
    become(index, count, port)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed leaves behind
    try:
        sys.exit(enter(program, lambda: act(*arguments)))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one is no news
        sys.exit(STOPPED)
    except Exception:
        if ranks.claim("traceback"):
            traceback.print_exc()
        sys.exit(1)


def become(index: int, count: int, port: int) -> None:
    """Put into this process's environment that it is rank `index` of `count` on this machine, whose store listens at
    the port; `ranks.join` then does the rest."""
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher holds the store
        "TORCHELASTIC_RESTART_COUNT": "0",
        ranks.SUPERVISED: "1",
    }
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:  # the machine's own name need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


def _wait(processes: list[BaseProcess]) -> list[int]:
    """Until all have ended; where one has failed the others are given a moment, and then killed. Their exit codes,
    LOST of those killed here."""
    end = None
    while alive := [process for process in processes if process.exitcode is None]:
        if end is None and any(process.exitcode not in (None, 0, STOPPED) for process in processes):
            end = time.monotonic() + GRACE
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0.0:
            break
        connection.wait([process.sentinel for process in alive], left)
    codes = [process.exitcode for process in processes]
    for process in alive:
        process.kill()
        process.join()
    return [LOST if code is None else code for code in codes]


@contextmanager
def _forwarding(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Passes SIGINT and SIGTERM on to the ranks, which stop after the update in hand; yields those that came."""
    came: list[int] = []

    def note(number, frame) -> None:
        came.append(number)
        _send(processes, number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller's handlers stand
        before = {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(processes: list[BaseProcess], number: int) -> None:
    for process in processes:
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, number)
