"""Real ranks for tests: processes that a group joins, each running one function."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from molsampler.basis import ranks
from molsampler.cli.launch import become

SECONDS = 120.0


def on_ranks(count: int, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What act(*arguments) returned on each of `count` ranks, in their order; a function of a module.

    A rank that raises fails the test with its traceback.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        given = (count, store.port, folder, act, arguments)
        context = mp.start_processes(_rank, given, nprocs=count, join=False, start_method="spawn")
        try:
            for process in context.processes:
                process.join(SECONDS)
            told = [path.read_text() for path in sorted(Path(folder).glob("*.txt"))]
            codes = [process.exitcode for process in context.processes]
            assert codes == [0] * count, "\n".join([f"exit codes {codes}", *told])
            return [torch.load(Path(folder) / f"{k}.pt", weights_only=False) for k in range(count)]
        finally:
            for process in context.processes:
                process.kill()


def _rank(index: int, count: int, port: int, folder: str, act: Callable[..., Any], arguments: tuple) -> None:
    become(index, count, port)
    torch.set_num_threads(1)
    try:
        ranks.join()
        torch.save(act(*arguments), Path(folder) / f"{index}.pt")
    except BaseException:
        (Path(folder) / f"{index}.txt").write_text(traceback.format_exc())
        sys.exit(1)
    finally:
        ranks.leave()
