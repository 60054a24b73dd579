"""What a run on a molecule can be told, and what would stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from molsampler.basis.errors import InputError
from molsampler.basis.settings import change, setting, table
from molsampler.diffusion.kinds import make_process
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.modes import ModesConfig
from molsampler.molecules.coordinates.pieces import piece_torsions
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.energy.choice import check_energy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.ladder import LadderConfig
from molsampler.preparation.pieces import PiecesConfig
from molsampler.preparation.short_md import SetupConfig
from molsampler.runs.loop import check_settings
from molsampler.training.config import TrainConfig

MOLECULE_TRAIN = change(
    TrainConfig(),
    warm_share=0.06,
    warm_least=300,
    balanced="torsions",
    schedule={"n_steps": 12, "torsions": "first"},
    policy={"guide": True},
    smc={"chunk": 4, "proposals": 8},
    optimiser={"method": "soap", "warm_rate": 6e-3, "mixture_rate": 6e-3, "rate": 1e-3},
    batch={"denoising": 5100},
    replay={"capacity": 240_000},
    moves={"every": 10, "limit": 1_000_000},
    rollouts={"every": 40},
)
"""What a run on a molecule begins with: torsions first, then a short diffusion. After a short warm-up trajectory
balance trains the torsions, whose density regression on replayed states learns by heart, while the diffusion goes on by
denoising with SOAP, whose gradients are far less noisy. Local moves pay for themselves at the beginning alone
(docs/ABLATIONS.md)."""


SEVERAL = "for a run at several temperatures"


@dataclass(frozen=True)
class RunConfig:
    """One run on a molecule."""

    system: str = setting("aldp", "name of a folder in systems/, or a path")
    samples: int = setting(10_000, "drawn at the end", low=1)
    sampler: Literal["policy", "smc"] = setting(
        "policy", "plain importance sampling with the policy, or sequential Monte Carlo with the twist"
    )
    backend: Literal["auto", "torch", "openmm"] = setting(
        "auto", "the energy in training: torch kernels, OpenMM, or torch where it covers every force"
    )
    platform: str = setting("auto", "OpenMM's platform", needs={"backend": ("auto", "openmm")})
    device: str = setting("cpu", "where networks and torch energy live: cpu, cuda")
    processes: int = setting(
        1,
        "that train together, each with its share of every batch; 0 for one a core (command line), or as many as "
        "torchrun starts",
        low=0,
    )
    threads: int = setting(0, "of torch on the CPU, in each process; 0 for all cores, shared among processes", low=0)
    coverage: int = setting(
        4096, "annealed chains made at the end, apart from training, to judge the policy by; 0 for none", low=0
    )
    setup: SetupConfig = table(SetupConfig, "short MD from the input structure, before annealing")
    ladder: LadderConfig = table(LadderConfig, "a range of temperatures for one policy")
    pieces: PiecesConfig = table(PiecesConfig, "ring conformers, and amides that are free to be cis and trans")
    modes: ModesConfig = table(
        ModesConfig, "of a ring: directions of the line far from normal, drawn first; not at several temperatures"
    )
    train: TrainConfig = table(lambda: MOLECULE_TRAIN, "training")


def check(config: RunConfig) -> None:
    """InputError for whatever would stop a run of this configuration later; nothing is computed or written.

    Every part is asked: ranges of all settings, samples, device, platform, the molecule, its energy and its process.
    """
    check_settings(config)
    molecule = load_molecule(config.system, say=_silent)  # the run tells its notes
    check_energy(molecule, config.backend, config.platform, config.device)
    _check_pieces(config, molecule)
    chart = Chart(molecule)
    if config.ladder.asked:
        _check_ladder(config, molecule, chart)
    make_process(chart.space, config.train.schedule)
    states = {"setup: chains times length / interval": config.setup.frames}
    if config.train.start == "annealed":
        states["train.anneal.particles"] = config.train.anneal.particles
    for name, number in states.items():
        if number <= chart.n_stiff:
            raise InputError(
                f"{name} = {number} states cannot standardise the {chart.n_stiff} stiff coordinates of "
                f"'{molecule.name}': give at least {chart.n_stiff + 1}, better ten times as many"
            )


def _check_ladder(config: RunConfig, molecule: Molecule, chart: Chart) -> None:
    """InputError for a range of temperatures that cannot be had."""
    ladder, train = config.ladder, config.train
    coldest, hottest = ladder.bounds(molecule.temperature)
    if coldest == hottest:
        raise InputError(
            f"ladder.coldest = {ladder.coldest:g} and ladder.hottest = {ladder.hottest:g} give {hottest:g} K alone, "
            f"the temperature of '{molecule.name}': give another, or leave both out"
        )
    train.check(TemperatureChart(chart, molecule.temperature, coldest, hottest).space)
    if config.pieces.chains and len(piece_torsions(molecule)):
        raise InputError(
            f"'{molecule.name}' may be in several pieces, which are not sampled {SEVERAL}: {_one_piece(molecule)}, or "
            "leave out ladder.hottest and ladder.coldest"
        )
    for name, value, bad, good in (
        ("sampler", config.sampler, "smc", "policy"),
        ("train.moves.kind", train.moves.kind, "md", "mala"),
        ("train.start", train.start, "scratch", "annealed"),
        ("train.objective", train.objective, "reverse_kl", "tb"),
        ("train.objective", train.objective, "log_variance", "tb"),
    ):
        if value == bad:
            raise InputError(f'{name} = "{bad}" is not possible {SEVERAL}: use "{good}"')


def _one_piece(molecule: Molecule) -> str:
    """How a molecule that may be in pieces is kept in one."""
    if molecule.free_amides:
        return 'leave out amides = "free" in its system.toml'
    return "use pieces.chains = 0 for the conformer of the input structure"


def _check_pieces(config: RunConfig, molecule: Molecule) -> None:
    """InputError where a molecule that may be in pieces is asked for what pieces do not allow."""
    if molecule.free_amides and not config.pieces.chains:
        raise InputError(
            f"'{molecule.name}' has free amides, whose forms are searched for, and pieces.chains = 0 searches for "
            'nothing: give it some chains, or leave out amides = "free" in its system.toml'
        )
    if not config.pieces.chains or not len(piece_torsions(molecule)):
        return
    if config.train.objective == "reverse_kl":
        raise InputError(
            f"'{molecule.name}' may be in several pieces, between which objective = \"reverse_kl\" cannot "
            "differentiate: use another objective, or pieces.chains = 0 for the conformer of the input structure"
        )
    forms = 2 ** len(molecule.free_amides)
    if forms > config.pieces.most:
        raise InputError(
            f"'{molecule.name}' has {len(molecule.free_amides)} free amides, whose {forms} forms are more than "
            f'pieces.most = {config.pieces.most}: raise it, or leave out amides = "free" in its system.toml'
        )


def _silent(text: str) -> None:
    pass
