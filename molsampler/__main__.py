"""`python -m molsampler` is the command `molsampler`."""

import sys

from molsampler.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
