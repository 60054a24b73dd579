"""What a run says in words: the verdict, and the rows and captions of the report."""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from molsampler.analysis.observables.basins import POSITIVE_PHI, deviation
from molsampler.analysis.pictures.figures import greek as greek_torsion
from molsampler.analysis.report.compared_table import above_floor, compared_rows
from molsampler.analysis.report.coverage_text import judge_coverage, limit
from molsampler.analysis.report.metric_names import find
from molsampler.analysis.report.page import (
    HEAVY,
    BasinRow,
    Picture,
    Report,
    TemperatureSection,
    Verdict,
    greek,
    number,
    percent,
    picture,
)
from molsampler.analysis.report.temperatures_text import judge_temperatures, temperature_section
from molsampler.analysis.report.viewer_data import viewer_data
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.study import PIECES, StateFindings, Study
from molsampler.store.run_directory import TEMPERATURES_PNG

METHOD = (
    "A diffusion policy turns a draw from a simple prior into a conformation in a fixed number of steps. It was trained"
    " from the potential energy alone, by trajectory balance on states that it found itself, that sequential Monte"
    " Carlo with a learnt twist found, and that were replayed. Every sample carries the importance weight"
    " w = R(x) p_B / p_F of its whole trajectory, so that weighted averages are averages over the Boltzmann"
    " distribution, however imperfect the policy; the effective sample size says how many independent samples the"
    " weights leave."
)
MISSING = 0.05  # of the reference's population: a basin above it that no sample is in spoils every average
HEADLINES = {
    "good": "This run can be trusted.",
    "care": "Use this run with care.",
    "poor": "This run cannot be used for averages.",
}


def basin_rows(findings: StateFindings) -> list[BasinRow]:
    """One row a state, a residue's basins and phi > 0 or the molecule's pieces, with the reference beside it."""
    first, known = next(iter(findings.samples.values())), findings.reference
    rows = []
    for name, estimate in first.populations.items():
        row: dict[str, Any] = {"name": name, "found": findings.found[name]}
        row |= {"span": first.spans.get(name), "heaviest": findings.heaviest.get(name, 0.0)}
        row["smoothed"] = findings.smoothed.get(name)
        row |= {"value": estimate.value, "stderr": estimate.stderr, "free_energy": first.free_energies.get(name)}
        if known is not None:
            other = known.populations[name]
            row |= {"reference": other.value, "reference_stderr": other.stderr}
            row["reference_free_energy"] = known.free_energies.get(name)
            row["deviation"] = deviation(estimate.value, first.span(name), other.value, known.span(name))
        rows.append(BasinRow(**row))
    return rows


class _Judge:
    """Collects sentences; the verdict is the worst of what they say."""

    def __init__(self) -> None:
        self.level, self.sentences = "good", []

    def say(self, sentence: str, level: str = "good") -> None:
        self.sentences.append(sentence)
        order = list(HEADLINES)
        self.level = max(self.level, level, key=order.index)

    def verdict(self) -> Verdict:
        return Verdict(HEADLINES[self.level], self.level, self.sentences)


def judge(study: Study, residues: list[tuple[str, list[BasinRow]]], metrics: dict[str, Any]) -> Verdict:
    """Whether the run can be used, and why."""
    judge = _Judge()
    n = len(study.samples.log_weights)
    ess = _estimate(metrics["ess"])
    if study.reweighted is None:
        judge.say(f"Not one of the {n:,} samples lies on the support: train for longer.", "poor")
        return judge.verdict()
    if math.isnan(ess.value):
        judge.say("The effective sample size needs at least two independent runs of sequential Monte Carlo.", "poor")
        return judge.verdict()
    _judge_weights(judge, study, metrics, ess)
    if metrics["fraction_inverted"]["value"]:
        share = percent(metrics["fraction_inverted"]["value"])
        judge.say(f"{share} of all weight is on mirror images of a stereocentre, which should have none.", "poor")
    for caution in study.subject.cautions:
        judge.say(caution, "care")
    judged = study.coverage is not None and judge_coverage(judge.say, study.coverage)
    if study.subject.temperatures:
        judge_temperatures(judge.say, study.subject.temperatures)
    if study.reference is None:
        if not judged:
            judge.say("There is no reference to compare with: a state that was never visited would not show.", "care")
        return judge.verdict()
    for residue, rows in residues:
        _judge_populations(judge, f" of {residue}" if len(residues) > 1 else "", rows)
    _judge_map(judge, metrics)
    return judge.verdict()


def _judge_weights(judge: _Judge, study: Study, metrics: dict[str, Any], ess: Estimate) -> None:
    n = len(study.samples.log_weights)
    worth = ess.value * n
    judge.say(
        f"The effective sample size is {percent(ess.value, ess.stderr)}: {n:,} weighted samples are worth about "
        f"{number(round(worth))} independent draws from the Boltzmann distribution."
    )
    if worth < 100 or ess.value < 0.05:
        judge.say(
            "That is low: averages rest on few samples, and their errors may be understated. Train for longer or draw "
            "more.",
            "poor" if worth < 20 else "care",
        )
    share = float(study.reweighted.weights.max())
    if share >= HEAVY:
        tail = _estimate(metrics.get("ess_smoothed", {})).value
        beside = f" With Pareto-smoothed weights it is {percent(tail)}." if math.isfinite(tail) else ""
        judge.say(
            f"A single sample carries {percent(share)} of all weight: the effective sample size flatters, and the "
            f"population of a rare basin may hang on it.{beside}",
            "care" if share > 0.05 else "good",
        )
    k = _estimate(metrics.get("pareto_k", {}))
    if math.isfinite(k.value):
        bound = metrics["pareto_k_threshold"]["value"]
        said = f"The tail of the weights has Pareto shape {number(*k)}"
        if k.value < bound:
            judge.say(f"{said}, below the {bound:.2f} up to which averages and their errors can be trusted.")
        else:
            judge.say(
                f"{said}, above the {bound:.2f} up to which averages and their errors can be trusted: a few samples "
                "that have not been drawn yet may change the averages.",
                "poor" if k.value > 1 else "care",
            )
    forward = _estimate(metrics.get("ess_forward", {}))
    if math.isfinite(forward.value) and forward.value < ess.value / 2:
        judge.say(
            f"Seen from the reference, the effective sample size is only {percent(*forward)}: the policy hardly visits "
            "some of its states, which the samples cannot tell.",
            "care",
        )


def _judge_populations(judge: _Judge, where: str, rows: list[BasinRow]) -> None:
    missing = [row for row in rows if row.found == 0 and row.reference]
    off = [row for row in rows if row.deviation is not None and abs(row.deviation) > 3 and row.found]
    if missing:
        level = "poor" if max(row.reference for row in missing) > MISSING else "care"
        named = _list([greek(row.name) for row in missing])
        judge.say(f"The samples miss {named}{where}, which the reference has.", level)
    if off:
        named = [f"{greek(row.name)} ({percent(row.value)} for {percent(row.reference)})" for row in off]
        judge.say(f"More than three standard errors from the reference{where}: {_list(named)}.", "care")
    if not off and not missing:
        judge.say(f"All {len(rows)} populations{where} agree with the reference within three standard errors.")
    positive = next((row for row in rows if row.name == POSITIVE_PHI), None)
    if positive is not None and positive.found and positive.reference:
        judge.say(
            f"The rare states with φ > 0{where} were found: {positive.found:,} samples, "
            f"{percent(positive.value, positive.stderr)} by weight, "
            f"{percent(positive.reference, positive.reference_stderr)} in the reference."
        )


def _judge_map(judge: _Judge, metrics: dict[str, Any]) -> None:
    """The total variation of the maps against what finite samples of the reference show."""
    entry = metrics.get("ramachandran_tv")
    if entry is None or entry["value"] is None or entry["floor"] is None:
        return
    said = (
        f"The total variation of the map from the reference is {number(entry['value'], entry['stderr'])}; perfect "
        f"samples of this size would show {number(entry['floor'], entry['floor_spread'])}."
    )
    if above_floor(entry):
        judge.say(f"{said} The difference is real.", "care")
    else:
        judge.say(said)


def build_report(study: Study, metrics: dict[str, Any]) -> Report:
    """The report of an analysed run; `metrics` as in metrics.json."""
    run, subject, samples = study.run, study.subject, study.samples
    mapped = [findings.pair.residue for findings in study.residues]
    residues = [(findings.pair.residue, basin_rows(findings)) for findings in study.residues]
    if study.pieces is not None:
        residues.append((PIECES, basin_rows(study.pieces)))
    topology = samples.trajectory.topology
    molecule = [("name", subject.name), ("residues", "-".join(residue.name for residue in topology.residues))]
    molecule += [("formula", _formula(topology)), ("atoms", str(topology.n_atoms))]
    molecule += [("temperature", f"{subject.temperature:g} K"), *subject.details]
    config = run / "config.toml"
    beside = "" if study.reference is None else ", with the reference of long simulations beside them"
    figures = []
    for name, entry in metrics.items():
        described = find(name)
        unit, meaning = (described.unit, described.meaning) if described else ("", "")
        figures.append((name, number(*_estimate(entry)), unit, _whose(name) + meaning))
    return Report(
        title=f"{subject.name}: {len(samples.log_weights):,} samples at {subject.temperature:g} K",
        molecule=molecule,
        method=subject.method or METHOD,
        verdict=judge(study, residues, metrics),
        map=_map(study),
        residues=residues,
        compared=compared_rows(metrics, mapped) if study.reference is not None else [],
        compared_text=_compared_text(study, metrics),
        pictures=_pictures(study, metrics, beside),
        figures=figures,
        repeat=_repeat(study),
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        has_reference=study.reference is not None,
        notes=study.notes,
        coverage=study.coverage,
        smooths=study.smoothed is not None,
        coverage_limit=0.0 if study.coverage is None else limit(study.coverage),
        conformations=_conformations(study),
        viewer=viewer_data(study),
        temperatures=_temperatures(study),
    )


def _whose(name: str) -> str:
    if name.endswith("_raw"):
        return "raw samples: "
    if name.endswith("_smoothed"):
        return "Pareto-smoothed weights: "
    if name.startswith("annealed_population_"):
        return "annealed states: "
    return "reference: " if name.startswith("reference_") and name != "reference_frames" else ""


def _compared_text(study: Study, metrics: dict[str, Any]) -> str:
    if study.reference is None:
        return ""
    worth = round(metrics["effective_samples"]["value"] or 0)
    n, m = len(study.samples.log_weights), study.reference.trajectory.n_frames
    return (
        f"How far {n:,} samples, worth {worth:,} by their weights, are from {m:,} frames of a long simulation. No "
        "finite sample is at distance 0: “perfect samples” is what as many independent frames of the simulation show, "
        "mean and spread. Errors are bootstrap standard errors. A row is marked where the reweighted samples lie "
        "clearly above perfect ones."
    )


def _map(study: Study) -> Picture | None:
    text = "Free energy over φ and ψ. Raw samples are as the network drew them, reweighted ones carry their weights."
    if study.reference is not None:
        text += (
            " The difference to the reference is blank where either has fewer than five frames in a cell; speckles of a"
            " few kJ/mol are the noise of finite samples, whole regions of one colour would not be."
        )
    return picture(
        "Ramachandran map",
        f"{text} Blank cells hold no frame.",
        study.run / "ramachandran.png",
        study.narrow.get("ramachandran.png"),
    )


def _temperatures(study: Study) -> TemperatureSection | None:
    rows = study.subject.temperatures
    if not rows:
        return None
    shown = picture(
        "Temperatures",
        "One policy at several temperatures, each with its own samples and weights. Last, the change of ln Z between "
        "neighbours by the mean weights against minus the integral of the mean energies over β: where the two differ, "
        "the samples at one of the two temperatures miss states. Bars are one standard error.",
        study.run / TEMPERATURES_PNG,
        study.narrow.get(TEMPERATURES_PNG),
    )
    return temperature_section(rows, shown)


def _conformations(study: Study) -> Picture | None:
    shown = study.conformations
    beside = (
        f" States are those of {greek_torsion(shown.labels[0])}." if shown is not None and len(shown.labels) > 1 else ""
    )
    return picture(
        "Conformations",
        f"The central frame of each state, and behind it others that were drawn by weight.{beside} Where a browser has "
        "JavaScript and WebGL, they can be turned here.",
        study.run / "conformations.png",
        study.narrow.get("conformations.png"),
    )


def _pictures(study: Study, metrics: dict[str, Any], beside: str) -> list[Picture]:
    cis, inverted = (metrics[f"count_{name}_raw"]["value"] for name in ("cis", "inverted"))
    outside = metrics["fraction_outside_support"]["value"]
    texts = [
        ("Torsions", f"Marginals of the soft torsions{beside}.", "torsions.png"),
        (
            "Energy",
            f"Potential energies by weight{beside}. The raw samples show what the weights have to correct.",
            "energy.png",
        ),
        (
            "Weights",
            "First, how the logarithms of the weights scatter about that of a perfect sample (dashed). Then, how much "
            "of all weight the heaviest samples carry; for perfect samples it is the dashed diagonal. "
            f"{percent(outside)} of the samples lie off the support and have weight 0; by geometry, {inverted:,} have a"
            f" stereocentre of the other hand and {cis:,} a cis amide.",
            "weights.png",
        ),
        ("RMSD", "RMSD of the heavy atoms after superposition. " + study.captions.get("rmsd.png", ""), "rmsd.png"),
        (
            "Training",
            "The effective sample size here is that of the small evaluation batches, which flatter.",
            "training.png",
        ),
    ]
    shown = [picture(title, text, study.run / name, study.narrow.get(name)) for title, text, name in texts]
    return [p for p in shown if p is not None]


def _repeat(study: Study) -> list[tuple[str, str]]:
    rows = [("command", study.subject.command)] if study.subject.command else []
    if study.reference is not None and study.reference.summary.get("command"):
        rows.append(("reference", str(study.reference.summary["command"])))
    packages = ("molsampler", "torch", "openmm", "openmmtools", "mdtraj", "numpy")
    rows.append(("versions", ", ".join(f"{name} {_version(name)}" for name in packages)))
    rows.append(("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    return rows


def _formula(topology: Any) -> str:
    """Carbon, hydrogen, then the others by name, as Hill's system has it."""
    counts: dict[str, int] = {}
    for atom in topology.atoms:
        symbol = atom.element.symbol if atom.element is not None else "X"
        counts[symbol] = counts.get(symbol, 0) + 1
    order = sorted(counts, key=lambda s: (s != "C" or "C" not in counts, s != "H" or "C" not in counts, s))
    subscript = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    return "".join(s + (str(counts[s]).translate(subscript) if counts[s] > 1 else "") for s in order)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _estimate(entry: dict[str, Any]) -> Estimate:
    """Value and error of an entry of metrics.json, NaN for null."""
    value, error = entry.get("value"), entry.get("stderr")
    return Estimate(math.nan if value is None else value, math.nan if error is None else error)


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
