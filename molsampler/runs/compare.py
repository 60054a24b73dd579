"""`molsampler compare`: which ensemble each path holds, and the page about all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import mdtraj as md

from molsampler.analysis.comparison import Comparison, compare_members
from molsampler.analysis.ensembles import (
    Member,
    check_same_molecule,
    load_trajectory,
    load_weights,
    of_reference,
    of_run,
    of_trajectory,
)
from molsampler.analysis.reference_ensemble import load_reference
from molsampler.analysis.report.compared_page import write_comparison
from molsampler.basis.errors import InputError
from molsampler.molecules.loading.load import load_molecule
from molsampler.store.config_file import load_toml
from molsampler.store.run_directory import RunDirectory

ROOM = 300.0  # K, where nothing says otherwise


def compare(
    paths: Sequence[str | Path],
    page: str | Path = "comparison.html",
    *,
    top: str | Path | None = None,
    weights: Sequence[str] = (),
    temperature: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Run directories, stored references and trajectories side by side, in `page` and a JSON file beside it.

    top : topology of trajectories that bring none; that of the first run or reference where left out
    weights : "TRAJECTORY=FILE", one weight a frame, for any of the trajectories
    temperature : K, of free energies; what runs and references say where left out
    Raises InputError where a path holds none, where molecules differ, or where the page is there already.
    """
    if len(paths) < 2:
        raise InputError(f"{len(paths)} ensemble was named: a comparison needs at least two.")
    page = Path(page)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"'{page}' is no name of a page: give one that ends in .html.")
    if not os.access(page.parent, os.W_OK):
        raise InputError(f"'{page}' cannot be written: '{page.parent}' is no folder that can be written to.")
    taken = [path for path in (page, page.with_suffix(".json")) if path.exists()]
    if taken and not overwrite:
        raise InputError(f"'{taken[0]}' is there already: name another with --out, or replace it with --overwrite.")
    weighted = _weights(weights, [Path(path) for path in paths])
    if top is not None and not Path(top).is_file():
        raise InputError(f"There is no file '{top}', which --top names.")
    names = _names([str(path) for path in paths])
    found = [
        None if _is_trajectory(Path(p)) else stored_ensemble(n, Path(p)) for n, p in zip(names, paths, strict=True)
    ]
    topology: Path | md.Topology | None = Path(top) if top is not None else None
    if topology is None:
        topology = next((member.trajectory.topology for member in found if member is not None), None)
    members = []
    for member, name, path in zip(found, names, paths, strict=True):
        if member is None:
            trajectory = load_trajectory(Path(path), topology)
            file = weighted.get(Path(path))
            w = None if file is None else load_weights(file, trajectory.n_frames, str(path))
            member = of_trajectory(name, trajectory, w)
        members.append(member)
        say(f"{name}: {member.n:,} frames, worth {member.effective:,.0f} independent ones")
    notes = check_same_molecule(members)
    kelvin, said = _temperature(members, temperature)
    comparison = compare_members(members, kelvin, [*notes, *said])
    write_comparison(comparison, page)
    return comparison


def _is_trajectory(path: Path) -> bool:
    return not path.is_dir()


def stored_ensemble(name: str, folder: Path) -> Member:
    """A run directory or a stored reference; a folder of a system stands for its reference."""
    if (folder / "reference.npz").is_file():
        return of_reference(name, load_reference(folder))
    if (folder / "system.toml").is_file() and (folder / "reference" / "reference.npz").is_file():
        return of_reference(name, load_reference(folder / "reference"))
    run = RunDirectory(folder)
    if not any((run / file).is_file() for file in ("config.toml", "samples.dcd", "weights.npz")):
        raise InputError(f"'{folder}' is a folder that holds neither a run nor a reference.")
    samples = run.load_samples()
    kelvin = _run_temperature(run) if samples.temperature is None else float(samples.temperature)
    return of_run(name, samples, kelvin)


def _run_temperature(run: RunDirectory) -> float | None:
    """K, of the system that the run's configuration names; None where that cannot be found from here."""
    try:
        return float(load_molecule(load_toml(run / "config.toml")["system"], say=lambda text: None).temperature)
    except (InputError, KeyError, OSError):
        return None


def _temperature(members: list[Member], given: float | None) -> tuple[float, list[str]]:
    known = [(m.name, m.temperature) for m in members if m.temperature is not None]
    if given is not None:
        if not 0 < given < float("inf"):
            raise InputError(f"--temperature {given:g} is no temperature in kelvin: give a positive number.")
        return given, []
    if not known:
        return ROOM, [
            f"No file says at which temperature it was sampled: {ROOM:g} K are taken; say so by --temperature."
        ]
    name, kelvin = known[0]
    said = [
        f"{n} was sampled at {t:g} K, {name} at {kelvin:g} K: they are different ensembles."
        for n, t in known[1:]
        if abs(t - kelvin) > 0.5
    ]
    return kelvin, said


def _weights(given: Sequence[str], paths: list[Path]) -> dict[Path, Path]:
    """File of weights by path of the trajectory."""
    found = {}
    for words in given:
        named, _, file = words.rpartition("=")
        if not named:
            raise InputError(f"--weights {words} names no trajectory: give it as TRAJECTORY=FILE.")
        trajectory = Path(named)
        if trajectory not in paths:
            raise InputError(f"--weights names '{named}', which is not among {', '.join(map(str, paths))}.")
        if trajectory.is_dir():
            raise InputError(f"'{trajectory}' is a folder, whose weights are known: --weights is for trajectories.")
        if not Path(file).is_file():
            raise InputError(f"There is no file '{file}' of weights for '{trajectory}'.")
        found[trajectory] = Path(file)
    return found


def _names(paths: list[str]) -> list[str]:
    """As short as they can be told apart: last parts of the paths, with as many before them as are needed."""
    parts = [Path(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({k + 1})" for k, path in enumerate(paths)]
