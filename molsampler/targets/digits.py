"""The posterior of a variational autoencoder's latent, for images of handwritten digits.

The case of Sendera et al., "Improved off-policy training of diffusion samplers" (NeurIPS 2024, arXiv 2402.05098,
section 5.4), who take MNIST; here the 1,797 images of 8 x 8 pixels that scikit-learn ships (E. Alpaydin and C. Kaynak,
"Optical recognition of handwritten digits", UCI, 1998, CC BY 4.0), a pixel on from 8 of its 16 levels up. Images and
decoder are data of this package: `python scripts/make_digits.py` makes data/digits.npz anew.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from molsampler.basis.space import LOG_2PI
from molsampler.targets.conditional import ConditionalTarget

DATA = files("molsampler.targets") / "data" / "digits.npz"
PIXELS, LATENT, HELD_OUT = 64, 20, 200


class VaeDigits(ConditionalTarget):
    """log R(z; x) = log N(z; 0, I) + log p(x | z), independent pixels whose logits a decoder gives: the posterior of
    z (20 dimensions) for an image x of 64 pixels, 0 or 1; log Z(x) = log p(x).

    The decoder, one hidden layer of tanh, was trained on 1,597 images, the ones that a sampler trains on too; the other
    200 are held out from both. Their log p(x) were estimated by annealed SMC, with the errors stated.
    """

    def __init__(self) -> None:
        images, self.decoder, log_z, error = _data()
        super().__init__("vae-digits", LATENT, images[:-HELD_OUT], images[-HELD_OUT:])
        self.held_out_log_z, self.held_out_log_z_error = log_z, error

    def log_joint(self, z: Tensor, condition: Tensor) -> Tensor:
        logits = decode(z, self.decoder)
        log_likelihood = (condition * logits - F.softplus(logits)).sum(-1)
        return log_likelihood - 0.5 * z.square().sum(-1) - 0.5 * LATENT * LOG_2PI


def decode(z: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Logits (B, 64) of the pixels of z (B, 20); weights (H, 20), (H,), (64, H), (64,)."""
    first, first_bias, last, last_bias = (part.to(z) for part in weights)
    return torch.tanh(z @ first.T + first_bias) @ last.T + last_bias


@cache
def _data() -> tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]:
    """Images (1797, 64), the decoder's weights, and log p(x) of the held-out images with errors, (200,) float64."""
    with DATA.open("rb") as file, np.load(file, allow_pickle=False) as held:
        images = np.unpackbits(held["images"], axis=1, count=PIXELS)
        decoder = tuple(torch.from_numpy(held[f"decoder_{k}"]) for k in range(4))
        log_z, error = (torch.from_numpy(held[name]).double() for name in ("log_z", "log_z_error"))
    return torch.from_numpy(images).float(), decoder, log_z, error
