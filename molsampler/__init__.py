"""molsampler: independent, weighted conformations of a molecule, learnt from its energy alone.

`import molsampler` offers the functions of `molsampler.api` (docs/PYTHON_API.md), imported when they are first used.
"""

import importlib
import os
from typing import Any

# Threads that wait for work sleep instead of spinning: on a machine that does anything else beside, spinning threads of
# a small batch slow each other down many times over. It has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.9.0"
__all__ = [
    "Density",
    "DensityConfig",
    "DensitySamples",
    "InputError",
    "Molecule",
    "Run",
    "RunConfig",
    "Samples",
    "Target",
    "Understanding",
    "change",
    "check",
    "load_molecule",
    "load_samples",
    "new",
    "preset",
    "resume",
    "start",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'molsampler' has no attribute '{name}'")
    return getattr(importlib.import_module("molsampler.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
