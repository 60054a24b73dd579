"""Makes the stored reference of a molecule: python scripts/make_reference.py aldp --ladders 32

The same as `molsampler reference`, whose options it takes.
"""

import sys

from molsampler.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reference", *sys.argv[1:]]))
