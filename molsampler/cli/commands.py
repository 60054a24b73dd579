"""Subcommands that begin no run: `molsampler new`, `check`, `reference` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from molsampler.cli.description import describe, describe_molecule, describe_warnings
from molsampler.cli.output import printer
from molsampler.molecules import facts
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.reference_simulation import ReferenceSettings
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading.folders import reference_folders
from molsampler.molecules.loading.load import load_molecule
from molsampler.runs.presets import PresetName


def check(
    system: Annotated[str, tyro.conf.Positional],
    platform: str = "auto",
    device: str = "cpu",
    preset: PresetName = "cpu",
) -> None:
    """Tell what was understood of a system, and how it will run; takes some seconds, nothing is compiled.

    Args:
        system: A name in systems/, a folder that holds a system.toml, or the file itself.
        platform: OpenMM platform for the energy; naming one takes OpenMM instead of the torch kernels.
        device: Where the torch energy lives: cpu, cuda.
        preset: Whose schedule is told.
    """
    from molsampler.preparation.check import understand

    for line in describe(understand(system, platform, device), preset):
        print(line)


def new(
    name: Annotated[str, tyro.conf.Positional],
    pdb: Path | None = None,
    forcefield: tuple[str, ...] = (),
    prmtop: Path | None = None,
    inpcrd: Path | None = None,
    implicit_solvent: str | None = None,
    system_xml: Path | None = None,
    openmmtools: str | None = None,
    temperature: float = 300.0,
    chains: tuple[str, ...] = (),
    templates: tuple[str, ...] = (),
    fix: bool = False,
    ph: float = 7.0,
    overwrite: bool = False,
) -> None:
    """Make a new system, systems/NAME in this directory, from a PDB or mmCIF file or one of three other sources.

    The sources: --pdb with --forcefield, --prmtop with --inpcrd, --system-xml with --pdb, or --openmmtools. Nothing is
    left behind unless the molecule can be loaded; docs/SYSTEMS.md describes the system.toml that comes out.

    Args:
        name: Of the system, and of its folder.
        pdb: A PDB or PDBx/mmCIF (.cif) file of one molecule, with all its hydrogens unless --fix adds them.
        forcefield: OpenMM's force-field files or your own, such as amber14-all.xml implicit/obc2.xml.
        prmtop: Amber's parameters and topology.
        inpcrd: Amber's coordinates (inpcrd, rst7).
        implicit_solvent: For --prmtop: HCT, OBC1, OBC2, GBn, GBn2; vacuum without it.
        system_xml: An OpenMM System as XmlSerializer writes it, its atoms in the order of the --pdb file.
        openmmtools: A class of openmmtools.testsystems, such as AlanineDipeptideImplicit.
        temperature: In kelvin.
        chains: Identifiers of the chains of the --pdb file to keep (auth_asym_id in mmCIF); all of them by default.
        templates: For residues that several templates of the force field match, such as ALA2=ALAD.
        fix: Let PDBFixer remove water, ions and other molecules, replace non-standard residues, add missing atoms and
            hydrogens; every change is printed.
        ph: For the hydrogens that --fix adds.
        overwrite: Replace the system of that name.
    """
    from molsampler.molecules.loading.new_system import Request, make_system

    request = Request(
        pdb=pdb,
        forcefield=forcefield,
        prmtop=prmtop,
        inpcrd=inpcrd,
        system_xml=system_xml,
        openmmtools=openmmtools,
        temperature=temperature,
        implicit_solvent=implicit_solvent,
        chains=chains,
        templates=templates,
        fix=fix,
        ph=ph,
    )
    folder, molecule = make_system(name, request, overwrite=overwrite)
    for line in [*describe_molecule(molecule, Chart(molecule)), *describe_warnings(facts.oddities(molecule))]:
        print(line)
    print(f"{folder} holds {', '.join(sorted(path.name for path in folder.iterdir()))}; next: molsampler check {name}")


def reference(
    system: Annotated[str, tyro.conf.Positional],
    settings: Annotated[ReferenceSettings, tyro.conf.arg(name="")],
    out: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Make the reference ensemble of a system by replica exchange, to compare samples with.

    An interrupted simulation goes on where it stopped when the same command is given again.

    Args:
        system: A name in systems/, a folder that holds a system.toml, or the file itself.
        out: Where to store it; by default where training and analysis look for it: `reference` in the system's folder,
            or systems/NAME/reference in this directory for a system that came with the installed package.
        device: Where the torch energy lives: cpu, cuda.
        overwrite: Replace the reference that is stored there.
        quiet: Results only: no progress bar, no notes.
    """
    from molsampler.runs.reference import store_reference

    say = printer(quiet)
    molecule = load_molecule(system, say)
    folder = out or reference_folders(system)[0]
    energy = make_energy(molecule, device=device, say=say)
    double = TorchEnergy(molecule, dtype=torch.float64, compile=False) if isinstance(energy, TorchEnergy) else energy
    stored = store_reference(
        molecule, energy, settings, folder, rescore=double, progress=not quiet, overwrite=overwrite, say=say
    )
    for name, estimate in stored.populations.items():
        print(f"{name:8s} {estimate.value:.5f} +- {np.nan if estimate.stderr is None else estimate.stderr:.5f}")
    print(f"reference: {folder}")


def compare(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path = Path("comparison.html"),
    top: Path | None = None,
    weights: tuple[str, ...] = (),
    temperature: float | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Compare ensembles of one molecule side by side: run directories, stored references, trajectories.

    Populations with errors and their deviations from the first, free energies, divergences over what finite samples
    show, and pictures on one scale, in one page and a JSON file beside it.

    Args:
        paths: Two or more; the first is what the others are held against. Run directories, folders of references, and
            trajectories of any format that mdtraj opens.
        out: The page, an HTML file; the JSON goes beside it.
        top: A file with the topology of trajectories whose format has none; by default that of the first run or
            reference.
        weights: TRAJECTORY=FILE, once or more: weights of the frames of a trajectory, `weights` or `log_weights` of an
            .npz, an .npy, or text.
        temperature: In kelvin, of the free energies; by default that of the first run or reference.
        overwrite: Replace the page.
        quiet: Results only.
    """
    from molsampler.analysis.report.compared_page import summary
    from molsampler.runs.compare import compare as side_by_side

    found = side_by_side(
        paths, out, top=top, weights=weights, temperature=temperature, overwrite=overwrite, say=printer(quiet)
    )
    for sentence in [*found.notes, *summary(found)]:
        print(sentence)
    print(f"results: {out}, {out.with_suffix('.json')}")
