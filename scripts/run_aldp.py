"""Alanine dipeptide from its energy alone: train, sample, analyse. `make aldp` ends here."""

import sys

from molsampler.cli.main import run_aldp

if __name__ == "__main__":
    sys.exit(run_aldp())
