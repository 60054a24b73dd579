"""molsampler: independent, weighted conformations of a molecule, learnt from its energy alone."""

__version__ = "0.1.0"
