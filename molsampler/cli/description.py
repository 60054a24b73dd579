"""A molecule and an `Understanding` in lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from molsampler.molecules import facts
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.check import DRAWS, Understanding
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import preset


def describe_molecule(molecule: Molecule, chart: Chart) -> list[str]:
    """What a molecule is made of, a line each."""
    charge = facts.net_charge(molecule)
    charged = "" if charge is None else f", charge {round(charge, 2) + 0.0:+g} e"  # + 0.0: no -0
    centres = facts.stereocentres(molecule)
    sides = [side for _, side in facts.amides(molecule)]
    return [
        f"{molecule.name}: {molecule.n_atoms} atoms, {len(molecule.bonds)} bonds{charged}, {molecule.temperature:g} K, "
        f"{facts.solvent(molecule)}",
        f"residues: {facts.residues(molecule)}",
        f"stereocentres: {', '.join(centres) or 'none'}; amides: {sides.count('trans')} trans, {sides.count('cis')} "
        f"cis; they stay so, and {len(chart.stereo.centres)} tetrahedral atoms keep their handedness",
        f"coordinates: {chart.n_stiff} on the line, {chart.n_soft} soft torsions on the circle",
    ]


def describe_warnings(warnings: Sequence[str]) -> list[str]:
    return [f"warning: {warning}" for warning in warnings]


def describe(understood: Understanding, preset_name: str) -> list[str]:
    """All that `molsampler check` prints; `preset_name` is the preset whose schedule is told."""
    molecule, chart = understood.molecule, understood.chart
    return [
        *(f"note: {note}" for note in understood.notes),
        *describe_molecule(molecule, chart),
        *(f"    {line}" for line in facts.soft_torsions_named(molecule, chart)),
        f"source: {understood.source}",
        *_energies(understood),
        *_speed(understood),
        *_standardisation(understood),
        _schedule(preset_name, preset(preset_name), chart),
        *(describe_warnings(understood.warnings) or ["no warnings"]),
    ]


def _energies(understood: Understanding) -> list[str]:
    energies = understood.energies
    lines = [
        f"energy of the input structure: {energies.total:.3f} kJ/mol by OpenMM's Reference platform, "
        f"{energies.total - energies.minimum:.1f} above the nearest minimum"
    ]
    return lines + [f"    {name:24s}{value:12.3f}" for name, value in energies.terms.items()]


def _speed(understood: Understanding) -> list[str]:
    speed = understood.speed
    compiled = " (compiled, several times that)" if "torch" in speed.backend else ""
    return [
        f"speed: {speed.batched:,.0f} energies with forces a second by {speed.backend}, threads {speed.threads}"
        f"{compiled}; OpenMM's CPU platform, one thread: {speed.openmm:,.0f}"
    ]


def _standardisation(understood: Understanding) -> list[str]:
    found = understood.standardisation
    if found is None:
        return []
    return [
        f"standardised coordinates: condition number {found.condition_number:.0f} (harmonic, at the nearest minimum)",
        f"untrained sampler: median energy {found.median:.4g} kJ/mol above the minimum, {found.inside:.0%} on the "
        f"support ({DRAWS} draws: standard normal on the line, uniform soft torsions)",
        f"    with the soft torsions as in the minimum {found.held:.4g}; equipartition would give "
        f"{found.equipartition:.4g}",
    ]


def _schedule(name: str, config: RunConfig, chart: Chart) -> str:
    train = config.train
    length = f"{train.minutes:g} minutes of training, of these {train.warm_share:.0%} denoising"
    if train.warm_updates is not None and train.updates is not None:
        length = f"{train.warm_updates:,} updates of denoising and {train.updates:,} of balance"
    first = f"{chart.n_soft} torsions one by one, then " if train.schedule.torsions == "first" and chart.n_soft else ""
    steps = f"{first}{train.schedule.n_steps} steps of diffusion"
    return f"schedule (preset {name}): {steps}; {length}; {config.samples:,} samples"
