"""torch.compile where it works, the plain function where it does not, and one line that says so.

What the compiler makes is kept between runs, in the user's cache folder: a molecule whose kernels are there starts
without compiling them.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_told = False


class CompiledOrEager:
    """Calls `function` compiled for fixed shapes; if the compiler fails (no C++ compiler, say), eager from then on.

    failed : whether it has fallen back; say : is told so, once in a process
    """

    def __init__(self, function: Callable[..., Any], say: Callable[[str], None] = print) -> None:
        keep_kernels()
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


def keep_kernels() -> None:
    """Has the compiler keep its kernels in `kernel_folder()`, unless TORCHINDUCTOR_CACHE_DIR names another place.

    Where that folder cannot be made they stay in torch's own, in the system's temporary folder, until the machine
    starts anew.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # a second, for those who compile alone

    # torch itself puts its default into the variable, as soon as anything imports its compiler: nobody's choice
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") not in (None, os.path.abspath(default_cache_dir())):
        return
    try:
        folder = kernel_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if os.access(folder, os.W_OK):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def kernel_folder() -> Path:
    """A folder in the user's cache ($XDG_CACHE_HOME or ~/.cache) for this version of torch and this very processor.

    Kernels are compiled for the processor at hand, but the compiler's own key knows only the width of its vectors: a
    home shared by machines would give one machine another's instructions.
    """
    known = "\n".join((torch.__version__, platform.machine(), _processor()))
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "molsampler" / f"kernels-{hashlib.sha256(known.encode()).hexdigest()[:16]}"


def _processor() -> str:
    """The processor's model and instruction sets, as far as the system tells them."""
    told = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.split(":")[0].strip() in told)


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
