"""The processes that train together: which of them this one is, and how they add up, agree and exchange.

A thin room over torch.distributed: one program runs on every rank, each with its share of every batch. A process alone
is a group of one, for which every function here gives back what it was given, to the last bit: whoever calls them need
not ask whether there are others. All but the first few are collective: every rank calls them, in the same order, and
all get the same answer unless it says otherwise. A rank that is gone makes them raise `Lost` on the others.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
SUPERVISED = "MOLSAMPLER_SUPERVISED"
"""In the environment of ranks whose launcher tells how they ended."""
_store: dist.Store | None = None


class Lost(Exception):
    """Another rank is gone, so that this one cannot go on."""


# what a rank knows by itself ------------------------------------------------------------------------------------------


def join() -> None:
    """Join the group that the environment names (RANK, WORLD_SIZE, as torchrun sets them); nothing without one.

    On a machine with GPUs "cuda" is the one with this rank's number from then on.
    """
    global _store
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    _store, rank, size = next(dist.rendezvous("env://"))
    _call(dist.init_process_group, store=_store, rank=rank, world_size=size)
    atexit.register(leave)


def leave() -> None:
    """Leave the group. Safe to call twice."""
    global _store
    if dist.is_initialized():
        dist.destroy_process_group()
    _store = None


def end(status: int) -> NoReturn:
    """End this process, all of whose work is done, with that exit status.

    Without the interpreter's own farewell: of the threads that libraries keep beside it, one that is still there then
    can abort the process (seen now and then in a rank that ends while others go on), and an aborted rank would end the
    whole run.
    """
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the rank that writes and prints."""
    return rank() == 0


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Those left to each of the ranks on this machine, at least one."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1
    return max(usable_cores() // here, 1)


def share(n: int) -> int:
    """A rank's share of n, the same on all of them: rounded up, so that together they have n or a few more."""
    return -(-n // size())


def portion(n: int) -> range:
    """Which of n things are this rank's; every one of them is one rank's, in the order of the ranks."""
    each, more = divmod(n, size())
    start = rank() * each + min(rank(), more)
    return range(start, start + each + (rank() < more))


def generator(seed: int, device: torch.device | str = "cpu", after: int = 0) -> torch.Generator:
    """A generator for this rank from the one seed of the run: the first rank's is that of a process alone.

    after : updates made, for a rank that joins a run which had fewer: it repeats no numbers of another that left
    """
    made = torch.Generator(device)
    if first() and not after:
        return made.manual_seed(seed)
    # torch's generator takes 32 bits of a seed; seed + rank would be the seed of another purpose or run
    mixed = np.random.SeedSequence(seed, spawn_key=(rank(), after)).generate_state(1, np.uint32)
    return made.manual_seed(int(mixed[0]))


def restore(own: torch.Generator, state: torch.Tensor, seed: int, after: int) -> None:
    """Brings a generator to the `state` that it had; to one of its own after so many updates where that is another
    kind of device's, which it cannot take."""
    fits = len(state) == len(own.get_state())
    own.set_state(state if fits else generator(seed, own.device, after).get_state())


def first_only(function: Callable[Parameters, Result]) -> Callable[Parameters, Result | None]:
    """The function on the first rank; on the others nothing is done and None comes back. For what writes and prints."""

    @functools.wraps(function)
    def act(*args: Parameters.args, **named: Parameters.kwargs) -> Result | None:
        return function(*args, **named) if first() else None

    return act


def claim(word: str) -> bool:
    """True for the first rank (or launcher) that asks for this word: one of them says what all have to say.

    Not collective.
    """
    try:
        return _store is None or _store.add(f"molsampler/{word}", 1) == 1
    except RuntimeError:  # the store went with its rank
        return True


# collective -----------------------------------------------------------------------------------------------------------


def mean(x: Tensor) -> Tensor:
    """The mean over ranks of a tensor of one shape."""
    if size() == 1:
        return x
    x = x.detach().clone()
    _call(dist.all_reduce, x)
    return x / size()


def total(number: int | float) -> Any:
    """The sum over ranks of a number of one kind."""
    if size() == 1:
        return number
    x = torch.tensor(number, dtype=torch.int64 if isinstance(number, int) else torch.float64)
    _call(dist.all_reduce, x)
    return x.item()


def any_of(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set on any rank."""
    if size() == 1:
        return [bool(flag) for flag in flags]
    x = torch.tensor(flags, dtype=torch.int32)
    _call(dist.all_reduce, x, op=dist.ReduceOp.MAX)
    return x.bool().tolist()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every gradient that is there becomes its mean over ranks, by one exchange of all of them."""
    if size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def stacked(x: Tensor) -> Tensor:
    """(size, ...): the tensors of all ranks, of one shape."""
    if size() == 1:
        return x[None]
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    _call(dist.all_gather, parts, x.detach().contiguous())
    return torch.stack(parts)


def gathered(x: Tensor) -> Tensor:
    """The rows of all ranks' tensors (n_rank, ...), in the order of the ranks; n may differ."""
    if size() == 1:
        return x
    lengths = stacked(torch.tensor(len(x), device=x.device)).tolist()
    padded = x.new_zeros(max(lengths), *x.shape[1:])
    padded[: len(x)] = x.detach()
    return torch.cat([part[:n] for part, n in zip(stacked(padded), lengths, strict=True)])


def exchanged(parts: tuple[Tensor, ...], counts: list[int]) -> tuple[Tensor, ...]:
    """Rows sent and received, different on every rank: of tensors (n, ...) that go together, the first counts[0] rows
    go to rank 0, the next counts[1] to rank 1; what comes back is in the order of those who sent it."""
    if size() == 1:
        return parts
    rows = [_bytes(part) for part in parts]
    packed = torch.cat(rows, dim=1)  # one message
    coming = received_counts(counts, packed.device)
    out = packed.new_empty(sum(coming), packed.shape[1])
    _call(dist.all_to_all_single, out, packed, output_split_sizes=coming, input_split_sizes=counts)
    came = out.split([row.shape[1] for row in rows], dim=1)
    return tuple(
        _fresh(piece).view(part.dtype).reshape(len(out), *part.shape[1:])
        for piece, part in zip(came, parts, strict=True)
    )


def _bytes(part: Tensor) -> Tensor:
    """(n, bytes of a row) uint8 of a tensor (n, ...)."""
    return _fresh(part.reshape(len(part), math.prod(part.shape[1:]))).view(torch.uint8)


def _fresh(x: Tensor) -> Tensor:
    """A copy that lies close and from the start of its memory, so that it can be seen as another type."""
    return x.detach().clone(memory_format=torch.contiguous_format)


def received_counts(counts: list[int], device: torch.device | str = "cpu") -> list[int]:
    """How many every rank has for this one, where this one has counts[r] for rank r: different on every rank."""
    if size() == 1:
        return counts
    sent = torch.tensor(counts, dtype=torch.int64, device=device)
    come = torch.empty_like(sent)
    _call(dist.all_to_all_single, come, sent)
    return come.tolist()


def from_first(value: Any) -> Any:
    """The first rank's value, which may be any plain object."""
    if size() == 1:
        return value
    box = [value]
    _call(dist.broadcast_object_list, box, src=0)
    return box[0]


def objects(value: Any) -> list[Any]:
    """The plain objects of all ranks."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    _call(dist.all_gather_object, found, value)
    return found


def collected(value: Any) -> list[Any]:
    """The plain objects of all ranks on the first one; none on the others."""
    if size() == 1:
        return [value]
    found: list[Any] | None = [None] * size() if first() else None
    _call(dist.gather_object, value, found)
    return found or []


def _call(operation: Callable[..., Any], *args: Any, **named: Any) -> Any:
    try:
        return operation(*args, **named)
    except RuntimeError as error:  # every error of a backend is one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Lost(f"another process of this run is gone ({reason}): go on from the last checkpoint") from error
