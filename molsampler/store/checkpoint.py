"""checkpoint.pt: everything to go on from, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from molsampler import __version__
from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.store.atomic import atomic_path

FORMAT = 5
"""Of what a checkpoint holds; one of another format is refused."""
_MISFITS = (KeyError, RuntimeError, ValueError, TypeError, AttributeError)


@ranks.first_only
def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """`state` (tensors and plain Python) with the version and format that wrote it; by the first rank."""
    with atomic_path(path) as temporary:
        torch.save({"version": __version__, "format": FORMAT, **state}, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote; InputError where it is missing, damaged, or of another format."""
    if not path.is_file():
        raise InputError(f"'{path}' is not there: train first, or name another run directory")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the checkpoint '{path}' cannot be read ({reason[:120]}): train again, or restore it"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state if isinstance(state, dict) else {}
        raise InputError(
            f"the checkpoint '{path}' has format {found.get('format', 1)}, written by molsampler "
            f"{found.get('version', 'unknown')}, and this version goes on from format {FORMAT} only: train again, or "
            "install that version; the samples beside it can be read all the same"
        )
    return state


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Around the taking over of a checkpoint's state, and nothing else: what does not fit becomes an InputError."""
    try:
        yield
    except _MISFITS as error:
        raise InputError(
            f"the checkpoint '{path}' does not fit this version of molsampler ({error}): train again"
        ) from error
