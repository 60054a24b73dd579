"""Make molsampler/targets/data/logistic.npz: features and labels of the two logistic regressions.

    pip install -e ".[digits]" && python scripts/make_logistic.py

scikit-learn is needed for its data sets alone, by this script alone.
"""

from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[1] / "molsampler" / "targets" / "data" / "logistic.npz"
LEAST_LIT = 10  # images in which a pixel is not black; fewer say next to nothing of its weight


def main() -> None:
    from sklearn.datasets import load_breast_cancer, load_digits

    cancer, digits = load_breast_cancer(), load_digits()
    lit = (digits.data > 0.0).sum(0) >= LEAST_LIT
    np.savez_compressed(
        OUT,
        cancer_features=cancer.data.astype(np.float32),
        cancer_labels=cancer.target.astype(np.uint8),
        digits_features=digits.data[:, lit].astype(np.uint8),
        digits_labels=(digits.target % 2).astype(np.uint8),
    )
    print(f"{OUT}: {OUT.stat().st_size:,} bytes; {cancer.data.shape[1]} features and {lit.sum()} pixels")


if __name__ == "__main__":
    main()
