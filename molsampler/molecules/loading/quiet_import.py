"""openmmtools without the notices of its dependencies: a user can do nothing about a missing JAX."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from types import ModuleType


def import_testsystems() -> ModuleType:
    """The module openmmtools.testsystems, imported without a word on stdout, stderr or through logging."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                return importlib.import_module("openmmtools.testsystems")
    finally:
        logging.disable(before)
