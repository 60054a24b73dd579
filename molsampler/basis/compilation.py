"""torch.compile where it works, the plain function where it does not, and one line that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_told = False


class CompiledOrEager:
    """Calls `function` compiled for fixed shapes; if the compiler fails (no C++ compiler, say), eager from then on.

    failed : whether it has fallen back; say : is told so, once in a process
    """

    def __init__(self, function: Callable[..., Any], say: Callable[[str], None] = print) -> None:
        self._eager, self._say = function, say
        self._compiled = torch.compile(_with_own_code(function), dynamic=False, fullgraph=True)
        self.failed = False

    def __call__(self, *args: Any) -> Any:
        if self.failed:
            return self._eager(*args)
        try:
            return self._compiled(*args)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, OSError) as error:
            self.failed = True
            _tell_once(error, self._say)
            return self._eager(*args)


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` behind a code object of its own: compiled versions are counted, and limited, by code object."""

    def entry(*args: Any) -> Any:
        return function(*args)

    entry.__code__ = entry.__code__.replace()
    return entry


def _tell_once(error: Exception, say: Callable[[str], None]) -> None:
    global _told
    if not _told:
        _told = True
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        say(f"torch.compile does not work here ({reason}); the torch kernels run eager, several times slower")
