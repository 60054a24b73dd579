"""What goes with --resume, and what does not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from molsampler.basis.errors import InputError


def refuse_with_resume(options: Any, names: Iterable[str], out: Path) -> None:
    """InputError for an option among `names` that was given beside --resume, where the run in `out` goes on."""
    for name in names:
        if getattr(options, name) not in (None, False):
            raise InputError(f"--resume goes on with the configuration of the run in '{out}': leave out --{name}")
