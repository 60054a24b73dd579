"""Train and judge the sampler on a synthetic target: python scripts/run_synthetic.py gmm40-2d; --help has the rest."""

import sys

from molsampler.cli.synthetic import main

if __name__ == "__main__":
    sys.exit(main())
