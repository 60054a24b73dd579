"""molsampler: independent, weighted conformations of a molecule, learnt from its energy alone."""

import os

# Threads that wait for work sleep instead of spinning: on a machine that does anything else beside, spinning threads of
# a small batch slow each other down many times over. It has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
