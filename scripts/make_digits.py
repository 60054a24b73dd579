"""Make molsampler/targets/data/digits.npz: images, a decoder trained on them, and log p(x) of the held-out ones.

    pip install -e ".[digits]" && python scripts/make_digits.py

scikit-learn is needed for its images alone, by this script alone. Training takes seconds on one thread, log p(x) some
minutes.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from molsampler.basis.log_weights import LogWeights
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets.density import Density
from molsampler.targets.digits import HELD_OUT, LATENT, PIXELS, decode

OUT = Path(__file__).resolve().parents[1] / "molsampler" / "targets" / "data" / "digits.npz"
SEED, HIDDEN, EPOCHS, BATCH, RATE = 0, 128, 300, 64, 2e-3
REPEATS, ANNEAL = 4, AnnealConfig(particles=512, last_moves=1)


def load_images() -> np.ndarray:
    """(1797, 64) of 0 and 1, in an order without a meaning: the data set's goes by writers."""
    from sklearn.datasets import load_digits

    on = (load_digits().data >= 8.0).astype(np.uint8)
    return on[np.random.default_rng(SEED).permutation(len(on))]


def train(images: Tensor) -> tuple[Tensor, ...]:
    """Weights of the decoder of a VAE with a Gaussian encoder (Kingma and Welling 2014), for images (M, 64)."""
    torch.manual_seed(SEED)
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in images[torch.randperm(len(images))].split(BATCH):
            mean, log_var = encoder(batch).chunk(2, dim=-1)
            logits = decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean))
            divergence = 0.5 * (log_var.exp() + mean.square() - 1.0 - log_var).sum(-1)
            loss = (F.softplus(logits) - batch * logits).sum(-1).mean() + divergence.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch) / len(images)
        if epoch % 50 == 0 or epoch == EPOCHS - 1:
            spread = mean.std(0)
            print(f"epoch {epoch}: -ELBO {total:.2f}, {int((spread > 0.1).sum())} of {LATENT} latents in use")
    return tuple(parameter.detach().clone() for parameter in decoder.parameters())


def log_evidence(image: Tensor, decoder: tuple[Tensor, ...], seed: int) -> tuple[float, float]:
    """log p(x) of an image (64,) and its standard error, by REPEATS annealings from the prior."""

    def log_joint(z: Tensor) -> Tensor:
        logits = decode(z, decoder)
        return (image * logits - F.softplus(logits)).sum(-1) + target.space.log_prior(z)

    target = Density(log_joint, LATENT)
    found = [
        annealed_smc(target.log_prob_and_score, target.space, ANNEAL, torch.Generator().manual_seed(seed + k)).log_z
        for k in range(REPEATS)
    ]
    weights = LogWeights(torch.tensor(found, dtype=torch.float64))
    return weights.log_mean, weights.log_mean_stderr


def main() -> None:
    images = load_images()
    decoder = train(torch.from_numpy(images[:-HELD_OUT]).float())
    held_out = torch.from_numpy(images[-HELD_OUT:]).float()
    found = [log_evidence(image, decoder, REPEATS * k) for k, image in enumerate(tqdm(held_out, desc="log p(x)"))]
    log_z, error = np.array(found).T
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        OUT,
        images=np.packbits(images, axis=1),
        log_z=log_z,
        log_z_error=error,
        **{f"decoder_{k}": part.numpy() for k, part in enumerate(decoder)},
    )
    print(f"{OUT}: {OUT.stat().st_size:,} bytes; log p(x) {log_z.mean():.3f} on average, errors {error.mean():.3f}")


if __name__ == "__main__":
    main()
