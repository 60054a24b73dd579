"""The pieces of a molecule, found from its energy alone: hot dynamics, quenching, and what tells the minima apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import POSITIVE, setting
from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.pieces import nearest, piece_torsions, torsions_of
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.dynamics.pivot import rotate
from molsampler.molecules.dynamics.quench import quench
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.short_md import SetupConfig, short_md, standardise

APART = 0.8
"""Radians: minima that differ by more in some torsion are pieces of their own. Those of one chair differ by less than
0.1, neighbouring twist-boats of a ring of six by 1.2."""
STAYS = 0.2
"""Share of the frames of short MD that have to lie in a piece for it to be one: others are slopes, or saddles. A pucker
that MD leaves within a picosecond is worth a chart of its own (docs/ABLATIONS.md)."""
_QUENCH_STEPS = 400


@dataclass(frozen=True)
class PiecesConfig:
    """The search for conformers of rings, and for cis and trans forms of amides that are free to be both."""

    chains: int = setting(64, "of hot dynamics from the input structure; 0 keeps to its conformer", low=0)
    temperature: float = setting(1000.0, "of the dynamics", unit="K", above=0.0, needs={"chains": POSITIVE})
    length: float = setting(10.0, "of each chain", unit="ps", above=0.0, needs={"chains": POSITIVE})
    timestep: float = setting(0.001, "of the dynamics", unit="ps", above=0.0, high=0.01, needs={"chains": POSITIVE})
    quenched: int = setting(8, "frames of each chain that are quenched", low=1, needs={"chains": POSITIVE})
    window: float = setting(
        10.0, "minima so far above the lowest are left out", unit="RT", above=0.0, needs={"chains": POSITIVE}
    )
    most: int = setting(32, "pieces, the lowest ones", low=1, needs={"chains": POSITIVE})


@dataclass(frozen=True)
class Pieces:
    """What was found, the lowest first.

    torsions : (T, 4) int64, what tells them apart;  centres : (K, T) float64 radians, of each piece's lowest minimum
    minima : (K, N, 3) nm, these minima;  energies : (K,) kJ/mol
    """

    torsions: Tensor
    centres: Tensor
    minima: Tensor
    energies: Tensor

    def __len__(self) -> int:
        return len(self.centres)

    def select(self, kept: list[int]) -> Pieces:
        """Those of these numbers."""
        return Pieces(self.torsions, self.centres[kept], self.minima[kept], self.energies[kept])


def find_pieces(
    molecule: Molecule, energy: Energy, config: PiecesConfig, chart: Chart, generator: torch.Generator
) -> Pieces:
    """Minima of hot dynamics and of its starting structures, apart from each other by APART (collective).

    The chains start from the input structure with its free amides turned to every combination of cis and trans. Minima
    of another stereochemistry are left out.
    """
    torsions = piece_torsions(molecule)
    with energy.counter.purpose("md"):
        starts = quench(energy, _turned_amides(molecule, chart), _QUENCH_STEPS)[0]
        hot = _hot_frames(molecule, energy, config, starts, generator)
        found = quench(energy, torch.cat([starts, hot]), _QUENCH_STEPS)
    minima, energies = map(ranks.gathered, found)
    good = torch.isfinite(energies) & chart.stereo.matches(minima)
    if not bool(good.any()):
        raise InputError(
            f"no minimum of '{molecule.name}' near the input structure has a finite energy and its stereochemistry: "
            "the input structure may have clashes; minimise it first"
        )
    minima, energies = minima[good], energies[good]
    order = energies.argsort()
    minima, energies = minima[order], energies[order]
    low = energies - energies[0] < config.window / molecule.beta
    minima, energies = minima[low], energies[low]
    angles = torsions_of(minima.double(), torsions.to(minima.device))
    leaders = _leaders(angles)[: config.most]
    return Pieces(torsions, *ranks.from_first([part[leaders].cpu() for part in (angles, minima, energies)]))


def _turned_amides(molecule: Molecule, chart: Chart) -> Tensor:
    """(2^n, N, 3) nm: the input structure with its n free amides as they are, or turned by half a circle about C-N."""
    x = torch.as_tensor(molecule.positions, dtype=chart.dtype, device=chart.device)[None]
    structures = []
    for turned in itertools.product([False, True], repeat=len(molecule.free_amides)):
        one = x
        for (_, c, n, _), flip in zip(molecule.free_amides, turned, strict=True):
            if flip:
                beyond = molecule.graph.beyond(c, n)
                whole = rotate(one, one[:, c], one[:, n], torch.full_like(one[:, 0, 0], torch.pi))
                one = one.clone()
                one[:, beyond] = whole[:, beyond]
        structures.append(one)
    return torch.cat(structures)


def _hot_frames(
    molecule: Molecule, energy: Energy, config: PiecesConfig, starts: Tensor, generator: torch.Generator
) -> Tensor:
    """Frames (M, N, 3) nm of this rank's share of the chains, dealt out over the starting structures."""
    chains = ranks.share(config.chains)
    dynamics = Langevin(energy, molecule.masses, config.temperature, config.timestep)
    first = ranks.rank() * chains  # ranks go on where those before them stop
    state = dynamics.start(starts[(first + torch.arange(chains, device=starts.device)) % len(starts)], generator)
    steps = max(round(config.length / config.timestep), 1)
    frames: list[Tensor] = []
    every = max(steps // config.quenched, 1)
    dynamics.step(state, steps, generator, lambda done, s: frames.append(s.positions[~s.failed].clone()), every)
    return torch.cat(frames)


def _leaders(angles: Tensor) -> list[int]:
    """Of minima by rising energy with these torsions (M, T), those that differ from all before by more than APART."""
    found: list[int] = []
    left = torch.arange(len(angles), device=angles.device)
    while len(left):
        found.append(int(left[0]))
        away = torch.remainder(angles[left] - angles[left[0]] + torch.pi, 2 * torch.pi) - torch.pi
        left = left[(away.abs() > APART).any(-1)]
    return found


def make_atlas(
    molecule: Molecule,
    energy: Energy,
    chart: Chart,
    pieces: Pieces,
    setup: SetupConfig,
    generator: torch.Generator,
    say: Callable[[str], None] = lambda text: None,
) -> Atlas | Chart | None:
    """An atlas of the pieces in which short MD stays, each chart standardised on it; `chart` standardised there where
    it is one piece, and None where it is none (collective).

    setup : with a rank's share of the chains
    """
    runs = [
        ranks.gathered(short_md(molecule, energy, setup, generator, str(chart.device), minimum.cpu().numpy()))
        for minimum in pieces.minima
    ]
    quadruples = pieces.torsions.to(chart.device)
    kept = list(range(len(pieces)))
    while len(kept) > 1:
        centres = pieces.centres[kept].to(chart.device)
        own = [nearest(torsions_of(runs[k].double(), quadruples), centres) == place for place, k in enumerate(kept)]
        enough = [
            k
            for k, inside in zip(kept, own, strict=True)
            if float(inside.double().mean()) >= STAYS and int(inside.sum()) > chart.n_stiff
        ]
        enough = ranks.from_first(enough)
        if enough == kept:
            atlas = Atlas(chart, pieces.torsions, pieces.centres[kept])
            for part, k, inside in zip(atlas.charts, kept, own, strict=True):
                standardise(part, molecule, energy, runs[k][inside])
            return atlas.install()
        say(
            f"pieces: {len(kept) - len(enough)} of {len(kept)} minima are no pieces of their own: MD leaves them, or "
            "has too few frames there"
        )
        kept = enough
    return standardise(chart, molecule, energy, runs[kept[0]]) if kept else None
